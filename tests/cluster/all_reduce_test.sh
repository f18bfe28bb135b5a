#!/usr/bin/env bash
# Four emulated hosts with links of 1 Gbit/s each way: the laws of collectives hold between hosts, and an all-reduce of 16 MiB fills the wire.
# Prints the payload's share of the links' rate (bus bandwidth: 2 (P - 1) / P of the vector, sent and received by each host), iperf3's and
# MPI_Allreduce's beside it.
set -euo pipefail
# shellcheck source=tests/dist/cli.sh
# shellcheck disable=SC2154
source "$(dirname "${BASH_SOURCE[0]}")/../dist/cli.sh"
# shellcheck source=tests/cluster/hosts.sh
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

hosts=4 megabit=1000 kib=16384
tests/cluster/netns.sh up "$hosts" "${megabit}mbit"
cleanups+=("tests/cluster/netns.sh down")  # from here on: hosts that are up already are another's

laws=$(dirname "$conclave")/dist_test
if [[ -x $laws ]]; then
  tests/cluster/netns.sh run "$hosts" "$laws" --gtest_filter=Mpi.CommunicatorLaws > "$scratch/laws" 2>&1 || { show "$scratch/laws"; fail "laws between hosts"; }
fi

if command -v iperf3 > /dev/null; then
  tests/cluster/netns.sh exec 0 iperf3 --server --one-off > /dev/null &
  sleep 0.5
  tests/cluster/netns.sh exec 1 iperf3 --client cvxh0 --time 2 --format m > "$scratch/iperf" || true
  wait
  iperf=$(awk -v rate="$megabit" '/receiver/ { for (i = 2; i <= NF; ++i) if ($i ~ /Mbits/) printf "%.3f", $(i - 1) / rate }' "$scratch/iperf")
fi

tests/cluster/netns.sh run "$hosts" "$conclave" bench collectives --kib "$kib" --json > "$scratch/bench" 2> "$scratch/log" || { show "$scratch/log"; exit 1; }
# share NAME: of the rate, from GB/s of the vector.
share() {
  sed -n "s/.*\"name\": \"$1 [0-9]* KiB\"[^}]*\"rate\": \\([-0-9.e+]*\\).*/\\1/p" "$scratch/bench" |
    awk -v hosts="$hosts" -v rate="$megabit" '{ printf "%.3f", $1 * 2 * (hosts - 1) / hosts * 8000 / rate }'
}
ours=$(share all-reduce) peer=$(share MPI_Allreduce) exchange=$(share "exact exchange")
echo "share of $megabit Mbit/s: all-reduce $ours, exact exchange of one block $exchange, MPI_Allreduce $peer, iperf3 ${iperf:-absent}"
awk -v a="$ours" -v b="$peer" 'BEGIN { exit !(a >= 0.75 && a > 1.3 * b) }' || fail "the all-reduce leaves the wire idle"
report
