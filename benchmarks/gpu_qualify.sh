#!/usr/bin/env bash
# Everything that only a CUDA machine can tell, in one command.
#
#   bash benchmarks/gpu_qualify.sh OUT [SHARDS] [--dry]
#
# The gpu tests; the training step of the four backbones, and whether it waits for data; every loader placement beside
# what peers are installed; a trace; a full-size epoch; the fastest way to run the step; a whole fold. Without SHARDS it
# makes 58,457 synthetic images of 256 px first. A call takes at most BUDGET seconds (540): what does not fit is left
# for the next call, which goes on where this one ended. OUT gets the records, the trace, and steps.tsv with every
# step's seconds; logs, and all that the next call needs, stay in WORK (runs/gpu_qualify).
# --dry runs every step at toy size, on whatever there is. Nothing is installed or fetched: what is missing is named;
# PYTHON names the interpreter, and PYTHONPATH may name a folder of packages that was brought along.
set -uo pipefail
out="" shards="" dry=false
for word in "$@"; do
  if [ "$word" = --dry ]; then dry=true
  elif [ -z "$out" ]; then out=$(realpath -m "$word")
  else shards=$(realpath -m "$word"); fi
done
[ -n "$out" ] || { echo "usage: gpu_qualify.sh OUT [SHARDS] [--dry]" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit 2
budget=${BUDGET:-540} python=${PYTHON:-python3} work=$(realpath -m "${WORK:-runs/gpu_qualify}")
missing=$("$python" -c '
import importlib.util as u
names = "torch torchvision timm nvidia.dali cv2 simplejpeg PIL webdataset jsonargparse rich pandas pyarrow sklearn tensorboard pytest hypothesis"
print(*[name for name in names.split() if not u.find_spec(name.split(".")[0]) or not u.find_spec(name)])') || exit 2
[ -z "$missing" ] || { echo "error: $python has no $missing: install it, or name another interpreter with PYTHON=..." >&2; exit 2; }
if ! $dry; then
  "$python" -c 'import torch; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(), torch.__version__)' 2>/dev/null ||
    { echo "error: torch sees no GPU here (--dry runs every step at toy size without one)" >&2; exit 2; }
fi
records=$work/records
mkdir -p "$out" "$records"
failed=0 left=""
step() { # NAME EXPECTED COMMAND...: runs it once, keeps its log and its time, and goes on after a failure
  local name=$1 expected=$2 start=$SECONDS verdict
  shift 2
  [ -e "$work/$name.passed" ] && return
  if ! $dry && [ $((SECONDS + expected)) -gt "$budget" ]; then left="$left $name"; return; fi
  timeout --signal=KILL $((budget > SECONDS ? budget - SECONDS : 1)) "$@" >>"$work/$name.log" 2>&1
  case $? in
    0) verdict=passed && touch "$work/$name.passed" ;;
    137) verdict="cut off" && left="$left $name" ;;
    *) verdict=FAILED && failed=1 ;;
  esac
  printf '%s\t%s\t%s\n' "$name" "$verdict" $((SECONDS - start)) | tee -a "$records/steps.tsv"
  cp "$records"/* "$out"
  [ "$verdict" = FAILED ] && tail -n 12 "$work/$name.log"
  return 0
}
if $dry; then
  images=150 size=64 backbones=tiny first=tiny epochs=1 fold=2
  measure=(--rounds 1 --seconds 0.05 --batch-size 8)
  loaders=(--rounds 1 --seconds 0.05 --peers quick --loader-batch-size 8)
  ways=(--speed.compile off --speed.memory_format channels_last --loader.placement host) recipe=(--batch-size 16 --device cpu)
else
  images=58457 size=256 backbones="efficientnet_b1 resnest50 efficientnet_b3 efficientnet_b4" first=efficientnet_b1 epochs=1 fold=15
  measure=(--rounds 3 --seconds 1.5) loaders=(--rounds 3 --seconds 1 --peers all --workloads both)
  ways=() recipe=()
fi
if [ -z "$shards" ]; then
  shards=$work/shards
  [ -e "$shards/manifest.json" ] || rm -f "$work"/synthetic.passed "$work"/shard.passed
  step synthetic 60 "$python" prep/synthetic.py --out "$work/data" --train $images --test 100 --size $size
  step shard 60 "$python" prep/shard.py --isic2020 "$work/data/2020" --isic2019 "$work/data/2019" --out "$shards" --size $size
  [ -e "$work/shard.passed" ] || { echo "error: without shards nothing else can be run" >&2; exit 1; }
fi
step tests 60 "$python" -m pytest -m gpu tests/engine tests/loaders tests/test_train_infer.py
throughput=("$python" -m benchmarks.throughput --shards "$shards" --work "$work/peers")
for backbone in $backbones; do
  step "step_$backbone" 55 "${throughput[@]}" --backbone "$backbone" --peers off "${measure[@]}" --out "$records/throughput_$backbone.json"
done
train=("$python" train.py --shards "$shards" --backbone $first --weights none --patience 0 "${recipe[@]}")
step epoch 60 "${train[@]}" --epochs $epochs --out "$work/epoch"
step trace 60 "${throughput[@]}" --backbone $first --peers off "${measure[@]}" --trace "$records/trace.json.gz" --out "$work/trace.json"
step loaders 240 "${throughput[@]}" --training false "${loaders[@]}" --out "$records/throughput_loaders.json"
step autotuned 280 "${throughput[@]}" --backbone $first --peers off "${measure[@]}" --autotune --plain "${ways[@]}" --out "$records/throughput_autotuned.json"
# Cut off, training goes on from its last checkpoint; the fold's time is the sum of its lines in steps.tsv.
step fold 60 "${train[@]}" --epochs $fold --out "$work/fold"
[ -z "$left" ] || echo "left for another call:$left"
exit $failed
