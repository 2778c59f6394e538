#!/usr/bin/env bash
# Makes what the tests in this folder start, on Debian; nothing else on the machine changes:
#
#   tests/cluster/install.sh DIR && CLUSTER=DIR .venv/bin/python -m pytest tests/cluster
#
# DIR/slurm holds Debian's packages of SLURM and munge, unpacked, DIR/venv Ray and submitit on top of .venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# = 1 ] || { echo "usage: tests/cluster/install.sh DIR" >&2; exit 2; }
[ -e .venv/.done ] || { echo "error: .venv is not there: run make test or scripts/setup first" >&2; exit 2; }
root=$PWD
mkdir -p "$1"
cd "$1"
rm -rf slurm venv debs
mkdir slurm debs
missing=$(apt-get install --simulate --no-install-recommends slurmctld slurmd slurm-client munge | awk '/^Inst/ {print $2}')
# shellcheck disable=SC2086  # a list of names
(cd debs && apt-get download --quiet --quiet $missing)
for package in debs/*.deb; do dpkg -x "$package" slurm; done
rm -r debs
"$root/.venv/bin/python" -m venv venv
own=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$own/zz_shared.pth"
"$root/.venv/bin/python" - "$root/pyproject.toml" >requirements.txt <<'PYTHON'
import sys, tomllib
extras = tomllib.load(open(sys.argv[1], "rb"))["project"]["optional-dependencies"]
print(*extras["ray"], *extras["slurm"], sep="\n")
PYTHON
venv/bin/python -m pip --disable-pip-version-check --quiet install --requirement requirements.txt
echo "CLUSTER=$PWD"
