#!/usr/bin/env bash
# Four emulated hosts with links of 50 Mbit/s each way: a mixture of experts reaches a held-out loss sooner with gradients of a byte a
# coordinate (EF21 over int8, both ways) than with exact ones. Time is that of the runs' own metrics, from the first step on; the loss to
# reach is the worse of the two at the end.
set -euo pipefail
# shellcheck source=tests/dist/cli.sh
# shellcheck disable=SC2154
source "$(dirname "${BASH_SOURCE[0]}")/../dist/cli.sh"
# shellcheck source=tests/cluster/hosts.sh
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

hosts=4 rate=${ACCURACY_RATE:-50mbit} steps=${ACCURACY_STEPS:-120}
tests/cluster/netns.sh up "$hosts" "$rate"
cleanups+=("tests/cluster/netns.sh down")
write_text "$scratch/text" 3000
# train NAME CONFIG
train() {
  local name=$1 config=$2
  tests/cluster/netns.sh run "$hosts" "$conclave" train "configs/compression/$config.textproto" --run-dir "$scratch/$name" \
    --set "data.sources[0].text.path=\"$scratch/text\"" --set "data.cache_dir=\"$scratch/cache\"" --set "trainer.steps=$steps" \
    --set trainer.eval.every=5 --set trainer.eval.batches=2 --set optim.schedule.warmup_steps=10 > "$scratch/$name.log" 2>&1 ||
    { show "$scratch/$name.log"; exit 1; }
}
# losses NAME: "milliseconds loss" of every look at the held-out data, time from the end of the first step.
losses() {
  sed -n 's/^{"step":\([0-9]*\),.*"evaluation":{"loss":\([-0-9.e+]*\),.*"unix_ms":\([0-9]*\).*/\1 \2 \3/p; s/^{"step":1,.*"unix_ms":\([0-9]*\).*/start \1/p' \
    "$scratch/$1/metrics.jsonl" | awk '$1 == "start" { start = $2; next } { print $3 - start, $2 }'
}
"$conclave" tokenize configs/compression/moe_lm_adamw.textproto --set "data.sources[0].text.path=\"$scratch/text\"" \
  --set "data.cache_dir=\"$scratch/cache\"" > /dev/null
train exact moe_lm_adamw
train coded moe_lm_ef21_int8
target=$({ losses exact | tail -n 1; losses coded | tail -n 1; } | awk '{ if ($2 > t) t = $2 } END { print t }')
reached() { losses "$1" | awk -v t="$target" '$2 <= t { print $1 / 1000; exit }'; }
exact=$(reached exact) coded=$(reached coded)
gain=$(awk -v a="$exact" -v b="$coded" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b }')
echo "held-out loss $target on links of $rate: exact after $exact s, EF21 int8 after $coded s, $gain times sooner"
awk -v g="${gain:-0}" 'BEGIN { exit !(g > 1) }' || fail "compression does not pay at $rate"
report
