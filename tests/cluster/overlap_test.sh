#!/usr/bin/env bash
# Two emulated hosts joined by shaped links: gradients travel while backward runs. What is left to wait for after backward is measured from
# traces, with overlap and without, on the same model; checkpoints of both have the same bytes.
set -euo pipefail
# shellcheck source=tests/dist/cli.sh
# shellcheck disable=SC2154
source "$(dirname "${BASH_SOURCE[0]}")/../dist/cli.sh"
# shellcheck source=tests/cluster/hosts.sh
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

rate=${OVERLAP_RATE:-1gbit} steps=${OVERLAP_STEPS:-4}
tests/cluster/netns.sh up 2 "$rate"
cleanups+=("tests/cluster/netns.sh down")
for ((i = 0; i < 6000; ++i)); do echo "line $((i * 7919 % 6007)) of a text that is long enough to train on"; done > "$scratch/text"
cat > "$scratch/run.textproto" << CONFIG
name: "overlap"
trainer { steps: $steps workers: 2 global_batch: 16 log_every: 1 }
optim { first_order { lr: 0.001 rule { adamw {} } } }
model { moe_lm { layers: 4 width: 192 heads: 6 context: 128 tied_head: false moe { experts: 8 top_k: 2 hidden: 384 } } }
comm { bucket_bytes: 1048576 }
data { sources { text { path: "$scratch/text" } } tokenizer { bytes {} } cache_dir: "$scratch/cache" validation_fraction: 0 }
observe { trace_every: 1 rank_logs: false progress: NONE }
CONFIG
"$conclave" tokenize "$scratch/run.textproto" > /dev/null

# train NAME OVERLAP: the shape's expert blocks are replicated, so all gradients cross the link.
train() {
  tests/cluster/netns.sh run 2 "$conclave" train "$scratch/run.textproto" --run-dir "$scratch/$1" --set comm.overlap="$2" \
    > "$scratch/$1.log" 2>&1 || { show "$scratch/$1.log"; exit 1; }
}
# exposed NAME: milliseconds a step that rank 0 waited for gradients after the first step, from the trace.
exposed() {
  local trace
  for trace in "$scratch/$1"/trace/step-*.rank-0.json; do
    [[ $trace == *step-0.* ]] || cat "$trace"
  done | awk -v steps="$((steps - 1))" '/"name":"(exchange|experts)\.(pieces|sums)"/ { sub(/.*"dur":/, ""); sum += $0 } END { printf "%.1f", sum / steps / 1000 }'
}
train after false
train during true
after=$(exposed after) during=$(exposed during)
hidden=$(awk -v a="$after" -v d="$during" 'BEGIN { printf "%.0f", 100 * (1 - d / a) }')
echo "waiting for gradients at $rate: $after ms a step after backward, $during ms during it: $hidden % hidden"
awk -v a="$after" 'BEGIN { exit !(a > 0) }' || fail "nothing was waited for without overlap"
((hidden >= 50)) || fail "only $hidden % hidden, at least 50 expected"
for rank in 0 1; do
  cmp "$scratch"/{after,during}/checkpoints/step-"$steps"/rank-"$rank".safetensors || fail "rank $rank: other bits with overlap"
done
report
