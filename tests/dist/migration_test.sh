#!/usr/bin/env bash
# Experts that change ranks after every step leave no trace in a run: killed in the midst of it, whatever was on its way, and resumed from
# its last checkpoint, it has the metrics and every tensor of the run whose experts never moved. Its routing trace can be exported and shown.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
write_text "$scratch/text"
moe_config "$scratch/moe.textproto" "$scratch/text"
moves=(--set parallel.rebalance.every=1 --set parallel.rebalance.after_step=1 --set parallel.rebalance.hysteresis=0
  --set parallel.rebalance.placement.random.seed=3 --set observe.routing_window=50 --set observe.routing_tokens=200)

# difference RUN RUN: of everything in their last checkpoints.
difference() { "$bin_dir/checkpoint_diff_program" "$1" "$2" ""; }

for ranks in 2 4; do
  what="$ranks ranks"
  still=$scratch/$ranks-still moving=$scratch/$ranks-moving
  options=("$scratch/moe.textproto" --set parallel.expert=2 --set parallel.numerics=WORLD_SIZE_INVARIANT --set trainer.steps=240)
  job "$ranks" train "${options[@]}" --run-dir "$still"
  expect "exit code of $what" "$code" 0
  ((code == 0)) || { show "$scratch/out"; continue; }
  start "$ranks" train "${options[@]}" "${moves[@]}" --run-dir "$moving" --set checkpoint.every=10 --set checkpoint.keep_last=9
  until_true "$launcher" test -d "$moving/checkpoints/step-30" || fail "step 30 was never committed on $what"
  pids=()
  for ((rank = 0; rank < ranks; ++rank)); do pids+=("$(rank_pid "$rank")"); done
  kill -KILL "${pids[@]}" 2> /dev/null
  wait "$launcher"
  job "$ranks" train "${options[@]}" "${moves[@]}" --run-dir "$moving" --set checkpoint.every=10 --set checkpoint.keep_last=9 --resume
  expect "exit code of the resumed $what" "$code" 0
  ((code == 0)) || { show "$scratch/out"; continue; }
  cmp <(state_fields "$still") <(state_fields "$moving") || fail "metrics on $what differ"
  expect "state fields on $what" "$(state_fields "$moving" | wc -l)" 240
  ((ranks == 2 ? $(grep -c '"moved_bytes":' "$moving/metrics.jsonl") > 60 : 1)) || fail "hardly anything moved on $what"
  report_line=$(difference "$still" "$moving")
  read -r _ tensors _ equal _ <<< "$report_line"
  expect "tensors with equal bits on $what" "$equal" "$tensors"
  ((tensors > 50)) || fail "only ${tensors:-no} tensors were compared on $what"
done

"$conclave" trace export "$scratch/2-moving" "$scratch/routing.npy" > "$scratch/out" 2>&1 || fail "trace export failed"
"$conclave" trace show "$scratch/routing.npy" > "$scratch/out" 2>&1 || fail "trace show failed"
grep -qE '^experts +6, 2 a token$' "$scratch/out" || { fail "the exported trace is not the run's"; show "$scratch/out"; }
"$conclave" trace drift "$scratch/2-moving" > "$scratch/out" 2>&1 || fail "trace drift failed"
expect "windows" "$(grep -cE '^ +[0-9]+ ' "$scratch/out")" 4
"$conclave" trace traffic "$scratch/2-moving" > "$scratch/out" 2>&1 || fail "trace traffic failed"
expect "windows of traffic" "$(sed '/^$/q' "$scratch/out" | grep -cE '^[0-9]+ ')" 4
grep -qE '^all  ' "$scratch/out" || { fail "traffic is not summed up"; show "$scratch/out"; }
"$conclave" trace export "$scratch/2-still" "$scratch/none.npy" > "$scratch/out" 2>&1 && fail "exported a trace that was never recorded"
grep -q 'observe.routing_window' "$scratch/out" || fail "the error does not say how to record a trace"

# A record says which weights and which tokens it is of, and serves no other tokens.
job 2 eval "$scratch/2-still" --batches 2 --record-routing "$scratch/read.npy"
expect "exit code of a recorded evaluation" "$code" 0
expect "step of the weights" "$(sed -n 's/^# step //p' "$scratch/read.npy.header")" 240
[[ $(sed -n 's/^# checkpoint //p' "$scratch/read.npy.header") =~ ^[0-9a-f]{16}$ ]] || fail "the record does not name its checkpoint"
job 2 eval "$scratch/2-still" --batches 2 --replay-routing "$scratch/read.npy"
expect "exit code of its replay" "$code" 0
sed 's/said/sang/' "$scratch/text" > "$scratch/other"
job 1 train "$scratch/moe.textproto" --set "data.sources[0].text.path=\"$scratch/other\"" --set trainer.steps=20 --run-dir "$scratch/sang"
expect "exit code of another text" "$code" 0
job 2 eval "$scratch/sang" --batches 2 --replay-routing "$scratch/read.npy"
((code != 0)) || fail "a record was replayed on another text"
grep -q 'the trace is of other tokens' "$scratch/out" || { fail "the error does not say that the tokens differ"; show "$scratch/out"; }
job 2 generate "$scratch/2-still" --prompt the --tokens 5 --trace "$scratch/written.npy"
expect "step of the writing weights" "$(sed -n 's/^# step //p' "$scratch/written.npy.header")" 240
report
