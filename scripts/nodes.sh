#!/usr/bin/env bash
# One training over several hosts without a scheduler: type the same line on each of them.
#
#     scripts/nodes.sh HEAD[:PORT] NODES [NPROC] train.py --backbone efficientnet_b1 --fold 0 ...
#
# HEAD: name or IPv4 address of one of them, as the others reach it; PORT: 29400. NODES: how many, or MIN:MAX, which goes
# on with those that are left and takes in those that come. NPROC: ranks on each, a number or gpu (as many as it has).
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit 2
}

[[ $# -ge 3 ]] || fail "usage: scripts/nodes.sh HEAD[:PORT] NODES [NPROC] train.py ..."
head=${1%:*} port=29400 nodes=$2
[[ $1 != *:* ]] || port=${1##*:}
[[ $nodes =~ ^[0-9]+(:[0-9]+)?$ ]] || fail "NODES is '$nodes': give a number, or MIN:MAX"
shift 2
nproc=gpu
[[ ! $1 =~ ^([0-9]+|gpu)$ ]] || { nproc=$1; shift; }

address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }') || true
[[ -n $address ]] || fail "$head has no IPv4 address that is known here: give its address"
[[ $address != 127.* ]] || fail "$head is $address here, which other hosts do not reach: give its address in the network"
route=$(ip -4 route get "$address" 2>&1 | head -n 1) || true
source=$(sed -n 's/.* src \([^ ]*\).*/\1/p' <<<"$route")
[[ -n $source ]] || fail "no route to $head ($address): $route"
is_host=0
[[ $route != local\ * ]] || is_host=1
# On the head the route goes over lo: the interface is the one that has the address.
interface=$(ip -4 -o address show to "$source" | awk 'NR == 1 { print $2 }')
[[ -n $interface ]] || fail "no interface has the address $source"

reached() {
    timeout 3 bash -c ": </dev/tcp/$address/$port" 2>/dev/null
}

# End torchrun, which is this process after exec, and with it its ranks, 45 s after the head last answered. By itself it
# gives up after 60 s, waits for an answer as long as TCP does, and once the link is back ends the others' meeting too.
watch() {
    local answered=$SECONDS
    while sleep 5 && [[ -e /proc/$$/exe ]]; do # until it has ended, even if nobody has asked how
        if reached; then
            answered=$SECONDS
        elif ((SECONDS - answered >= 45)); then
            echo "error: $head:$port has not answered for 45 s: this node ends; what was saved is kept: run the same" \
                "command again when it answers" >&2
            kill -KILL $$
            return
        fi
    done
}

# torch takes the address that the host's name stands for, often 127.0.0.1, and guesses by it who is the head.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface}
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-=$interface}
# A node that comes later never learns where torchrun keeps the store that it shares with the ranks: rank 0 has its own.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
restarts=0
[[ $nodes != *:* ]] || restarts=100 # a lost node costs one
if ((!is_host)); then
    until reached; do
        ((SECONDS < 600)) || fail "$head:$port does not answer: start the same command there"
        sleep 1
    done
    watch &
fi
exec python -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$nproc" --max-restarts "$restarts" \
    --rdzv-backend c10d --rdzv-id melanoma --rdzv-endpoint "$address:$port" --rdzv-conf "is_host=$is_host" \
    --local-addr "$source" "$@"
