#!/usr/bin/env bash
# Makes the environments of the peers that ask for more than this repository: .peers/NAME, each on top of .venv, so that
# all run on the same torch, NumPy and OpenCV unless a peer insists on another version.
#
#   benchmarks/peers/install.sh [--system] [NAME ...]        # all of them without a NAME
#
# What cannot be installed is said, its log kept as .peers/NAME.log, and the benchmark reports it as missing. FFCV is
# compiled against OpenCV and libjpeg-turbo and SPDL links to FFmpeg; as root, --system brings these with apt-get.
set -uo pipefail
cd "$(dirname "$0")/../.."
declare -A packages=(
  [ffcv]="ffcv==1.0.2"
  [litdata]="litdata==0.2.61"
  [mosaicml]="mosaicml-streaming==0.13.0"
  [spdl]="spdl==0.5.0"
)
if [ "${1:-}" = --system ]; then
  shift
  apt-get install --yes g++ pkg-config libopencv-dev libturbojpeg0-dev libavdevice59 libavfilter8 || exit 1
fi
[ -e .venv/.done ] || { echo "error: .venv is not there: run make test or scripts/setup first" >&2; exit 2; }
shared=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p .peers
failed=0
for name in "${@:-${!packages[@]}}"; do
  :
done
