#!/usr/bin/env bash
# Two emulated hosts joined by shaped links train the larger shape: gradients travel while backward runs. Hidden is what a step waits less for
# them at its end than with gradients after backward, on average over steps. A step's wait is that of the rank that waits least: the other
# waits for that rank's products, too. What a step gains by it is printed beside: less than that, since packets take processor time wherever
# every core computes. There the fastest step of each run counts, since other processes only ever slow a step down. Two meshes:
#   data 2     every host has all experts: 430 MB of gradients a step, no tokens; a batch whose backward is longer than these take
#   expert 2   experts are split between the hosts: 27 MB of gradients, which give way to tokens on their way to experts
# A step with gradients after backward and links without a limit says what the exchange costs in processor time when nothing paces it.
# Checkpoints have the same bytes.
set -euo pipefail
# shellcheck source=tests/dist/cli.sh
# shellcheck disable=SC2154
source "$(dirname "${BASH_SOURCE[0]}")/../dist/cli.sh"
# shellcheck source=tests/cluster/hosts.sh
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

rate=${OVERLAP_RATE:-1gbit} rounds=${OVERLAP_ROUNDS:-1} data_batch=${OVERLAP_DATA_BATCH:-192}
tests/cluster/netns.sh up 2 "$rate"
cleanups+=("tests/cluster/netns.sh down")
for ((i = 0; i < 6000; ++i)); do echo "line $((i * 7919 % 6007)) of a text that is long enough to train on"; done > "$scratch/text"

# configure MESH BATCH STEPS: equal loads, since what a step takes is to be the same in every run.
configure() {
  steps=$3
  rm -rf "$scratch"/{after,during,thread,free}*
  cat > "$scratch/run.textproto" << CONFIG
name: "overlap"
trainer { steps: $3 workers: 2 global_batch: $2 log_every: 1 }
parallel { $1 }
optim { first_order { lr: 0.001 rule { adamw {} } } }
model {
  moe_lm { layers: 6 width: 512 heads: 8 context: 128 tied_head: false moe { experts: 16 top_k: 2 hidden: 1024 selection: ROUND_ROBIN } }
}
comm { bucket_bytes: 1048576 timeout_seconds: 600 }
data { sources { text { path: "$scratch/text" } } tokenizer { bytes {} } cache_dir: "$scratch/cache" validation_fraction: 0 }
checkpoint { keep_last: 1 }
observe { trace_every: 1 rank_logs: false progress: NONE }
CONFIG
}
# train NAME OPTIONS...
train() {
  local name=$1
  shift
  tests/cluster/netns.sh run 2 "$conclave" train "$scratch/run.textproto" --run-dir "$scratch/$name" "$@" \
    > "$scratch/$name.log" 2>&1 || { show "$scratch/$name.log" 60; exit 1; }
}
# spans NAME SPAN: of every step after the first a line: the run and step, and milliseconds that one rank has of such spans.
spans() {
  local trace
  for trace in "$scratch/$1"-*/trace/step-*.rank-*.json; do
    [[ $trace == *step-0.* ]] || { grep -E "\"name\":\"$2\"" "$trace" || true; } | sed 's/.*"dur":\([0-9.]*\).*/\1/' |
      awk -v step="${trace%.rank-*}" '{ sum += $1 } END { print step, sum / 1000 }'
  done
}
least() { spans "$@" | sort -g -k 2 | awk 'NR == 1 { print $2 }'; }
# wait_of NAME: the mean over steps of what the rank waits that waits least.
wait_of() {
  spans "$1" '(exchange finish|leaf table)' |
    awk '!($1 in least) || $2 < least[$1] { least[$1] = $2 } END { for (s in least) { sum += least[s]; ++n } print (n > 0) ? sum / n : 0 }'
}
# share PART WHOLE: in percent.
share() { awk -v p="$1" -v w="$2" 'BEGIN { printf "%.0f", (w > 0) ? 100 * p / w : 0 }'; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { print a - b }'; }
# same_bits RUN...: as after-1.
same_bits() {
  local run rank
  for run in "$@"; do
    for rank in 0 1; do
      cmp "$scratch"/{after-1,"$run"}/checkpoints/step-"$steps"/rank-"$rank".safetensors || fail "rank $rank, $run: other bits with overlap"
    done
  done
}
# measure MESH BATCH STEPS [free]: with `free` also on links without a limit.
measure() {
  configure "$1" "$2" "$3"
  local round name after during thread free step_after step_during step_thread
  for ((round = 1; round <= rounds; ++round)); do
    train "after-$round" --set comm.overlap=false
    train "during-$round"
    train "thread-$round" --set comm.progress_thread=true
    if (($# > 3)); then
      tests/cluster/netns.sh rate none
      train "free-$round" --set comm.overlap=false
      tests/cluster/netns.sh rate "$rate"
    fi
  done
  for name in after during thread; do
    printf -v "$name" '%s' "$(wait_of "$name")"
    printf -v "step_$name" '%s' "$(least "$name" step)"
  done
  printf '%s, %d sequences: a step waits %.0f ms for gradients at %s; ' "$1" "$2" "$after" "$rate"
  printf 'beside backward %.0f ms: %s %% hidden; ' "$during" "$(share "$(less "$after" "$during")" "$after")"
  printf 'with a progress thread %.0f ms: %s %% hidden; ' "$thread" "$(share "$(less "$after" "$thread")" "$after")"
  printf 'it takes %.0f ms, %.0f ms (%s %% of the wait gained), ' "$step_after" "$step_during" "$(share "$(less "$step_after" "$step_during")" "$after")"
  printf '%.0f ms (%s %% gained)' "$step_thread" "$(share "$(less "$step_after" "$step_thread")" "$after")"
  if (($# > 3)); then
    free=$(least free step)
    printf '; without a limit, after backward, %.0f ms: at most %s %% can be gained, of which %s %%, with a progress thread %s %%' "$free" \
      "$(share "$(less "$step_after" "$free")" "$after")" "$(share "$(less "$step_after" "$step_during")" "$(less "$step_after" "$free")")" \
      "$(share "$(less "$step_after" "$step_thread")" "$(less "$step_after" "$free")")"
  fi
  printf '\n'
  awk -v a="$after" 'BEGIN { exit !(a > 0) }' || fail "nothing was waited for without overlap"
  same_bits during-1 thread-1
}

configure "expert: 2" 16 2
"$conclave" tokenize "$scratch/run.textproto" > /dev/null
# Two ranks of 6 GiB.
if (($(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) > 14 << 20)); then
  measure "data: 2" "$data_batch" 5 free
else
  echo "data: 2 left out: less than 14 GiB of memory are free"
fi
measure "expert: 2" 16 6
report
