#!/usr/bin/env bash
# Two emulated hosts: the link rate below which an exchange through a codec beats the exact one, foretold from bytes and times without a limit,
# against what links of 2/3 and 3/2 of that rate show, or of 2 Gbit/s where it is higher: more two hosts on two cores do not fill. By default
# EF21 over a low rank found slowly, which is so slow that its crossover lies where links can be shaped. CROSSOVER_CODEC names another.
set -euo pipefail
# shellcheck source=tests/dist/cli.sh
# shellcheck disable=SC2154
source "$(dirname "${BASH_SOURCE[0]}")/../dist/cli.sh"
# shellcheck source=tests/cluster/hosts.sh
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

codec=${CROSSOVER_CODEC:-"low_rank { width: 8 iterations: 4 }"}
tests/cluster/netns.sh up 2
cleanups+=("tests/cluster/netns.sh down")
# race: "bytes_exact bytes_coded seconds_lost" of a rank, seconds negative where the codec gains.
race() {
  tests/cluster/netns.sh run 2 "$conclave" bench collectives "$codec" --kib 8192 --json 2> "$scratch/log" > "$scratch/bench" ||
    { show "$scratch/log"; exit 1; }
  tr '{' '\n' < "$scratch/bench" | awk '
    function field(name) { return match($0, "\"" name "\": [-0-9.e+]*") ? substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 4) + 0 : 0 }
    /^"name": "exact exchange/ { seconds = field("seconds"); bytes = field("sent_bytes_all_ranks") / 2 }
    /^"name": "coded exchange/ { print bytes, field("sent_bytes_all_ranks") / 2, field("seconds") - seconds; exit }'
}
read -r exact coded lost <<< "$(race)"
modelled=$(awk -v a="$exact" -v b="$coded" -v s="$lost" 'BEGIN { if (s > 0 && a > b) printf "%.0f", (a - b) * 8 / s }')
[[ -n $modelled ]] || { fail "no crossover: $exact and $coded bytes, $lost s"; report; }
around=$((modelled < 2000000000 ? modelled : 2000000000))
tests/cluster/netns.sh rate "$((around * 2 / 3))"
read -r _ _ slow <<< "$(race)"
tests/cluster/netns.sh rate "$((around * 3 / 2))"
read -r _ _ fast <<< "$(race)"
# What the codec loses is linear in 1 / rate: its zero on the line through the two.
measured=$(awk -v m="$around" -v s="$slow" -v f="$fast" 'BEGIN { a = 1.5 / m; b = 1 / (1.5 * m); printf "%.0f", 1 / (b - f * (a - b) / (s - f)) }')
apart=$(awk -v m="$modelled" -v x="$measured" 'BEGIN { d = x / m - 1; printf "%.3f", d < 0 ? -d : d }')
echo "crossover foretold at $((modelled / 1000000)) Mbit/s, found at $((measured / 1000000)): $apart apart"
awk -v a="$apart" 'BEGIN { exit !(a <= 0.25) }' || fail "the model is off"
report
