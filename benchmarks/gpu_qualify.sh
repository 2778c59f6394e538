#!/usr/bin/env bash
# Everything that only a CUDA machine can tell, in one command; about half an hour.
#
#   bash benchmarks/gpu_qualify.sh OUT [SHARDS]
#
# Runs the gpu tests, measures the loader alone (every placement and tier) and, for each of the four backbones, what the
# trainer reaches on real, replayed and resident batches, beside the plain trainer. Records and logs lie in OUT. Cut off,
# it goes on with what has not passed yet. Without SHARDS it makes 20,000 synthetic images of 256 px first.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: gpu_qualify.sh OUT [SHARDS]}
shards=${2:-}
python=${PYTHON:-python3}
mkdir -p "$out"
failed=0
step() { # NAME COMMAND...: runs it, keeps its log, goes on after a failure, so that one fault does not hide the rest
  local name=$1 start=$SECONDS
  shift
  [ -e "$out/$name.passed" ] && return
  if "$@" >"$out/$name.log" 2>&1; then verdict=passed && touch "$out/$name.passed"; else verdict="FAILED (exit $?)" && failed=1; fi
  echo "$name: $verdict in $((SECONDS - start)) s"
  tail -n 12 "$out/$name.log"
}
"$python" -c 'import torch; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(), torch.__version__)' 2>/dev/null ||
  { echo "error: torch sees no GPU here" >&2; exit 2; }
if [ -z "$shards" ]; then
  work=${TMPDIR:-/tmp}/gpu_qualify_data
  shards=$work/shards
  if [ ! -e "$shards/manifest.json" ]; then
    rm -f "$out"/synthetic.passed "$out"/shard.passed
    step synthetic "$python" prep/synthetic.py --out "$work/data" --train 18000 --test 2000 --size 256
    step shard "$python" prep/shard.py --isic2020 "$work/data/2020" --isic2019 "$work/data/2019" --out "$shards"
  fi
fi
step tests "$python" -m pytest -m gpu tests/engine tests/loaders tests/test_train_infer.py
for backbone in efficientnet_b1 resnest50 efficientnet_b3 efficientnet_b4; do
  step "saturation_$backbone" "$python" -m benchmarks.saturation --shards "$shards" --backbone "$backbone" \
    --autotune true --plain true --out "$out/saturation_$backbone.json"
done
step loader "$python" -m benchmarks.throughput --shards "$shards" --out "$out/loader_gpu.json" --rounds 5
step loader_large_batch "$python" -m benchmarks.throughput --shards "$shards" --batch-size 512 --prefetch 3 \
  --out "$out/loader_gpu_512.json" --rounds 3
for cache in none gpu; do
  step "train_$cache" "$python" train.py --shards "$shards" --backbone efficientnet_b1 --weights none --epochs 2 \
    --out "$out/runs_$cache" --loader.cache "$cache"
  [ -d "$out/runs_$cache" ] && cp "$out/runs_$cache"/*/fold0/metrics.jsonl "$out/train_$cache.jsonl" && rm -rf "$out/runs_$cache"
done
step picture "$python" -m loaders.show "$shards" --out "$out/grid.png"
exit $failed
