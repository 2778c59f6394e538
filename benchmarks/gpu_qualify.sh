#!/usr/bin/env bash
# Everything that only a CUDA machine can tell, in one command; about eight minutes.
#
#   bash benchmarks/gpu_qualify.sh OUT [SHARDS]
#
# Runs the gpu tests, measures the loader alone (every placement and tier) and trains a few steps, and leaves the
# records and logs in OUT. Without SHARDS it makes 20,000 synthetic images of 256 px first.
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
  if "$@" >"$out/$name.log" 2>&1; then verdict=passed; else verdict="FAILED (exit $?)" && failed=1; fi
  echo "$name: $verdict in $((SECONDS - start)) s"
  tail -n 12 "$out/$name.log"
}
"$python" -c 'import torch; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(), torch.__version__)' 2>/dev/null ||
  { echo "error: torch sees no GPU here" >&2; exit 2; }
if [ -z "$shards" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  shards=$work/shards
  step synthetic "$python" prep/synthetic.py --out "$work/data" --train 18000 --test 2000 --size 256
  step shard "$python" prep/shard.py --isic2020 "$work/data/2020" --isic2019 "$work/data/2019" --out "$shards"
fi
step tests "$python" -m pytest -m gpu tests/loaders/test_gpu.py tests/loaders/test_meter.py tests/test_train_infer.py
step loader "$python" -m benchmarks.throughput --shards "$shards" --out "$out/loader_gpu.json" --rounds 5
step loader_large_batch "$python" -m benchmarks.throughput --shards "$shards" --batch-size 512 --prefetch 3 \
  --out "$out/loader_gpu_512.json" --rounds 3
for cache in none gpu; do
  step "train_$cache" "$python" train.py --shards "$shards" --backbone efficientnet_b1 --weights none --epochs 2 \
    --out "$out/runs_$cache" --loader.cache "$cache"
  cp "$out/runs_$cache"/*/fold0/metrics.jsonl "$out/train_$cache.jsonl" && rm -rf "$out/runs_$cache"
done
step picture "$python" -m loaders.show "$shards" --out "$out/grid.png"
exit $failed
