#!/usr/bin/env bash
# Makes the environments of the peers that ask for more than this repository: .peers/NAME, each on top of .venv, so that
# all run on the same torch, NumPy and OpenCV unless a peer insists on other versions.
#
#   benchmarks/peers/install.sh [--system] [NAME ...]        # all of them without a NAME
#
# What cannot be installed is said, its log kept as .peers/NAME.log, and the benchmark reports it. FFCV is compiled
# against OpenCV and libjpeg-turbo, and SPDL links to FFmpeg; on Debian, as root, --system brings these with apt-get.
set -uo pipefail
cd "$(dirname "$0")/../.."
declare -A packages=(
  [ffcv]="ffcv==1.0.2"
  [litdata]="litdata==0.2.76"
  [mosaicml]="mosaicml-streaming==0.13.0"
  [spdl]="spdl==0.8.0"
  [torchcodec]="torchcodec==0.17.0"
)
if [ "${1:-}" = --system ]; then
  shift
  apt-get install --yes g++ pkg-config libopencv-dev libturbojpeg0-dev libavdevice59 libavfilter8 || exit 1
fi
[ -e .venv/.done ] || { echo "error: .venv is not there: run make test or scripts/setup first" >&2; exit 2; }
shared=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p .peers
failed=0
for name in "${@:-"${!packages[@]}"}"; do
  [ -n "${packages[$name]:-}" ] || { echo "error: no peer $name; there are ${!packages[*]}" >&2; exit 2; }
  rm -rf ".peers/$name"
  if {
    .venv/bin/python -m venv ".peers/$name" &&
      own=$(".peers/$name/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') &&
      echo "$shared" >"$own/zz_shared.pth" && # behind its own packages
      ".peers/$name/bin/python" -m pip --disable-pip-version-check install "${packages[$name]}"
  } >".peers/$name.log" 2>&1; then
    echo "$name: ${packages[$name]}"
  else
    echo "$name: could not be installed: $(grep -v '^ *$' ".peers/$name.log" | tail -n 1)"
    rm -rf ".peers/$name"
    failed=1
  fi
done
exit $failed
