#!/usr/bin/env bash
# Everything that only a CUDA machine can tell, in one command.
#
#   bash benchmarks/gpu_qualify.sh OUT [SHARDS] [--dry]
#
# The gpu tests; the training step of the four backbones, and whether it waits for data, with a trace; a full-size epoch
# and a whole fold; every loader placement beside what peers are installed; the fastest way to run the step. Without
# SHARDS it makes 58,457 synthetic images of 256 px first. A call takes at most BUDGET seconds (540): what does not fit
# is left for the next call, which goes on where this one ended; what failed or was cut off comes last there. OUT gets
# the records, the trace, and steps.tsv with every step's seconds; logs, and all that the next call needs, stay in WORK
# (runs/gpu_qualify). Exits with 0 when all is done, 3 when something is left, 1 when something failed.
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
$dry && suffix=_dry || suffix=""
budget=${BUDGET:-540} python=${PYTHON:-python3} work=$(realpath -m "${WORK:-runs/gpu_qualify$suffix}")
missing=$("$python" -c '
import importlib.util as u
names = """torch torchvision timm nvidia.dali cv2 simplejpeg PIL webdataset jsonargparse docstring_parser yaml rich
numpy pandas pyarrow scipy sklearn matplotlib tensorboard albumentations pytest hypothesis"""
print(*[name for name in names.split() if not u.find_spec(name.split(".")[0]) or not u.find_spec(name)])') || exit 2
[ -z "$missing" ] || { echo "error: $python has no $missing: install it, or name another interpreter with PYTHON=..." >&2; exit 2; }
if ! $dry; then
  "$python" -c 'import torch; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(), torch.__version__)' 2>/dev/null ||
    { echo "error: torch sees no GPU here (--dry runs every step at toy size without one)" >&2; exit 2; }
fi
records=$work/records
mkdir -p "$out" "$records"
failed=0 left="" ran=" " again=false
step() { # NAME EXPECTED COMMAND...: runs it once, keeps its log and its time, and goes on after a failure
  local name=$1 expected=$2 start=$SECONDS verdict tried=false
  shift 2
  [ -e "$work/$name.tried" ] && tried=true
  if [ -e "$work/$name.passed" ] || [[ $ran == *" $name "* ]] || [ $again != $tried ]; then return; fi
  ran="$ran$name "
  if ! $dry && [ $((SECONDS + expected)) -gt "$budget" ]; then left="$left $name"; return; fi
  timeout --signal=KILL $((budget > SECONDS ? budget - SECONDS : 1)) "$@" >>"$work/$name.log" 2>&1
  case $? in
    0) verdict=passed && touch "$work/$name.passed" ;;
    137) verdict="cut off" && left="$left $name" ;;
    *) verdict=FAILED && failed=1 ;;
  esac
  case $name in
    synthetic | shard) ;; # without them nothing goes on
    fold) ;; # goes on from its last checkpoint; its time is the sum of its lines in steps.tsv
    *) touch "$work/$name.tried" ;;
  esac
  printf '%s\t%s\t%s\n' "$name" "$verdict" $((SECONDS - start)) | tee -a "$records/steps.tsv"
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
  measure=(--rounds 3 --seconds 1) loaders=(--rounds 3 --seconds 1 --peers all)
  ways=() recipe=()
fi
if [ -z "$shards" ]; then
  shards=$work/shards
  [ -e "$shards/manifest.json" ] || rm -f "$work"/synthetic.passed "$work"/shard.passed
  step synthetic 60 "$python" prep/synthetic.py --out "$work/data" --train $images --test 100 --size $size
  step shard 60 "$python" prep/shard.py --isic2020 "$work/data/2020" --isic2019 "$work/data/2019" --out "$shards" --size $size
  [ -e "$work/shard.passed" ] || { echo "error: without shards nothing else can be run" >&2; exit 1; }
fi
throughput=("$python" -m benchmarks.throughput --shards "$shards" --work "$work/peers")
train=("$python" train.py --shards "$shards" --backbone $first --weights none --patience 0 "${recipe[@]}")
steps() {
  step tests 60 "$python" -m pytest -m gpu tests/engine tests/loaders tests/test_train_infer.py
  for backbone in $backbones; do
    traced=()
    [ $backbone = $first ] && traced=(--trace "$records/trace.json.gz")
    step "step_$backbone" 55 "${throughput[@]}" --backbone "$backbone" --peers off "${measure[@]}" "${traced[@]}" \
      --out "$records/throughput_$backbone.json"
  done
  step epoch 60 "${train[@]}" --epochs $epochs --out "$work/epoch"
  step fold 60 "${train[@]}" --epochs $fold --out "$work/fold"
  step loaders 240 "${throughput[@]}" --training false "${loaders[@]}" --out "$records/throughput_loaders.json"
  step loaders_flips 240 "${throughput[@]}" --training false "${loaders[@]}" --workloads flips \
    --out "$records/throughput_loaders_flips.json"
  step autotuned 400 "${throughput[@]}" --backbone $first --peers off "${measure[@]}" --autotune --plain "${ways[@]}" \
    --out "$records/throughput_autotuned.json"
}
steps
again=true
steps # those that an earlier call tried
cp "$records"/* "$out" 2>/dev/null
[ -z "$left" ] || echo "left for another call:$left"
[ $failed = 1 ] && exit 1
[ -z "$left" ] || exit 3
