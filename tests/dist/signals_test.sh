#!/usr/bin/env bash
# TERM and USR1 finish the step, commit and exit 75; INT exits 93 likewise; the run then resumes and finishes with 0. By the launcher and alone.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
write_text "$scratch/text"
moe_config "$scratch/moe.textproto" "$scratch/text"
options=("$scratch/moe.textproto" --set optim.schedule.constant="{}" --set optim.schedule.warmup_steps=0)
forever=(--set trainer.steps=1000000)

# check_stopped WHAT RUN: the last step made is committed, and the run goes on from there and finishes.
check_stopped() {
  local step
  step=$(last_checkpoint "$2")
  expect "last step of $1" "$(steps_in "$2")" "$step"
  # A step or two more to make: a resumed run that started again from nothing would have too few lines.
  "$conclave" train "${options[@]}" --run-dir "$2" --resume --set "trainer.steps=$((step + 2))" > "$scratch/out" 2>&1
  expect "exit code of the resumed run ($1)" $? 0
  expect "steps of the resumed run ($1)" "$(steps_in "$2") $(last_checkpoint "$2")" "$((step + 2)) $((step + 2))"
}

for case in TERM:75 USR1:75 INT:93; do
  IFS=: read -r signal wanted <<< "$case"
  run=$scratch/mpi-$signal
  start 2 train "${options[@]}" "${forever[@]}" --run-dir "$run"
  until_true "$launcher" has_steps "$run" 5 || fail "the run did not start"
  kill -"$signal" "$launcher"
  wait "$launcher"
  expect "exit code after $signal" $? "$wanted"
  ((failures == 0)) || show "$scratch/out"
  check_stopped "$signal by the launcher" "$run"
  [[ ! -e $run/stop ]] || fail "the stop file is left after $signal"
done

for case in TERM:75 USR1:75 INT:93; do
  IFS=: read -r signal wanted <<< "$case"
  run=$scratch/alone-$signal
  env --default-signal=INT "$conclave" train "${options[@]}" "${forever[@]}" --run-dir "$run" --ranks 2 > "$scratch/out" 2>&1 &
  alone=$!
  until_true "$alone" has_steps "$run" 5 || fail "the process alone did not start"
  kill -"$signal" "$alone"
  wait "$alone"
  expect "exit code of a process alone after $signal" $? "$wanted"
  check_stopped "$signal to a process alone" "$run"
done

# A time limit is a stop of the same kind.
job 2 train "${options[@]}" "${forever[@]}" --run-dir "$scratch/limit" --set trainer.time_limit_seconds=1
expect "exit code at the time limit" "$code" 75
check_stopped "the time limit" "$scratch/limit"

job 2 train "${options[@]}" --set trainer.steps=3 --run-dir "$scratch/whole"
expect "exit code of a finished run" "$code" 0
report
