#!/usr/bin/env bash
# Two emulated hosts joined by shaped links, experts between them: gradients of all other blocks travel while backward runs, and give way to
# tokens on their way to experts. How much of their time is hidden is measured by what a step gains: its time with gradients after backward
# less its time with gradients during it, over the time that the former waits for them. Both run in turn; the fastest step of each counts,
# since other processes only ever slow a step down. Checkpoints have the same bytes.
set -euo pipefail
# shellcheck source=tests/dist/cli.sh
# shellcheck disable=SC2154
source "$(dirname "${BASH_SOURCE[0]}")/../dist/cli.sh"
# shellcheck source=tests/cluster/hosts.sh
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

rate=${OVERLAP_RATE:-1gbit} steps=${OVERLAP_STEPS:-6} rounds=${OVERLAP_ROUNDS:-2}
tests/cluster/netns.sh up 2 "$rate"
cleanups+=("tests/cluster/netns.sh down")
for ((i = 0; i < 6000; ++i)); do echo "line $((i * 7919 % 6007)) of a text that is long enough to train on"; done > "$scratch/text"
cat > "$scratch/run.textproto" << CONFIG
name: "overlap"
trainer { steps: $steps workers: 2 global_batch: 16 log_every: 1 }
parallel { expert: 2 }
optim { first_order { lr: 0.001 rule { adamw {} } } }
model { moe_lm { layers: 6 width: 512 heads: 8 context: 128 tied_head: false moe { experts: 16 top_k: 2 hidden: 1024 } } }
comm { bucket_bytes: 1048576 }
data { sources { text { path: "$scratch/text" } } tokenizer { bytes {} } cache_dir: "$scratch/cache" validation_fraction: 0 }
checkpoint { keep_last: 1 }
observe { trace_every: 1 rank_logs: false progress: NONE }
CONFIG
"$conclave" tokenize "$scratch/run.textproto" > /dev/null

# train NAME OPTIONS...
train() {
  local name=$1
  shift
  tests/cluster/netns.sh run 2 "$conclave" train "$scratch/run.textproto" --run-dir "$scratch/$name" "$@" \
    > "$scratch/$name.log" 2>&1 || { show "$scratch/$name.log"; exit 1; }
}
# durations NAME PATTERN: milliseconds of the spans of that name, a line each, of rank 0 after the first step.
durations() {
  local trace
  for trace in "$scratch/$1"-*/trace/step-*.rank-0.json; do
    [[ $trace == *step-0.* ]] || grep -E "\"name\":\"$2\"" "$trace" | sed 's/.*"dur":\([0-9.]*\).*/\1/'
  done | awk '{ print $1 / 1000 }'
}
fastest() { durations "$1" step | sort -g | head -n 1; }

for ((round = 1; round <= rounds; ++round)); do
  train "after-$round" --set comm.overlap=false
  train "during-$round"
done
train thread-1 --set comm.progress_thread=true
waited=$(durations after '(exchange|experts)\.(pieces|sums)' | awk -v steps=$((rounds * (steps - 1))) '{ sum += $1 } END { printf "%.1f", sum / steps }')
after=$(fastest after) during=$(fastest during) thread=$(fastest thread)
hidden() { awk -v a="$after" -v d="$1" -v w="$waited" 'BEGIN { printf "%.0f", (w > 0) ? 100 * (a - d) / w : 0 }'; }
printf 'gradients take %s ms of a step of %.0f ms at %s; beside backward it takes %.0f ms: %s %% hidden (with a progress thread %.0f ms: %s %%)\n' \
  "$waited" "$after" "$rate" "$during" "$(hidden "$during")" "$thread" "$(hidden "$thread")"
awk -v a="$waited" 'BEGIN { exit !(a > 0) }' || fail "nothing was waited for without overlap"
for run in during-1 thread-1; do
  for rank in 0 1; do
    cmp "$scratch"/{after-1,"$run"}/checkpoints/step-"$steps"/rank-"$rank".safetensors || fail "rank $rank, $run: other bits with overlap"
  done
done
report
