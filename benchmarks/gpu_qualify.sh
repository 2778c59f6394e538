#!/usr/bin/env bash
# bash benchmarks/gpu_qualify.sh OUT [SHARDS] [--dry]: everything that only a CUDA machine can tell; see gpu_qualify.py.
here=$PWD
cd "$(dirname "$0")/.." || exit 2
CALLED_FROM=$here exec "${PYTHON:-python3}" -m benchmarks.gpu_qualify "$@"
