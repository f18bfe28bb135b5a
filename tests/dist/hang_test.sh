#!/usr/bin/env bash
# No rank can hang: a stopped, killed or out-of-step rank ends the job within the timeout, and the report names it.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
write_text "$scratch/text"
moe_config "$scratch/moe.textproto" "$scratch/text"
timeout_s=3
# What the job may take beyond its timeout: the watchdog's own period, the launcher's clean-up, a busy machine.
grace_s=8
options=("$scratch/moe.textproto" --set trainer.steps=1000000 --set "comm.timeout_seconds=$timeout_s")

# alive PID: it runs or is stopped (a zombie does neither).
alive() { grep -qs '^State:.[^ZX]' "/proc/$1/status"; }

# hurt SIGNAL RANK RANKS: starts a run, sends the signal to that rank, waits for the end. Sets code and spent_s.
hurt() {
  local run=$scratch/$1-$2-of-$3 victim began
  start "$3" train "${options[@]}" --run-dir "$run"
  until_true "$launcher" has_steps "$run" 5 || fail "the run did not start"
  victim=$(rank_pid "$2")
  began=$(milliseconds)
  kill -"$1" "$victim"
  wait "$launcher"
  code=$?
  spent_s=$((($(milliseconds) - began) / 1000))
  # The launcher's kill may still be on its way through a busy machine.
  for _ in {1..20}; do alive "$victim" && sleep 0.1; done
  ! alive "$victim" || { fail "rank $2 outlives its job"; kill -KILL "$victim"; }
}

for case in 0:2 1:2 1:3; do
  IFS=: read -r rank ranks <<< "$case"
  hurt STOP "$rank" "$ranks"
  expect "exit code with rank $rank of $ranks stopped" "$code" 70
  ((spent_s <= timeout_s + grace_s)) || fail "rank $rank of $ranks stopped: the job took $spent_s s to end, timeout $timeout_s s"
  expect "culprits with rank $rank of $ranks stopped" "$(grep -o '^culprit: rank [0-9]*' "$scratch/out")" "culprit: rank $rank"
  ((failures == 0)) || show "$scratch/out"
done

hurt KILL 1 2
expect "exit code with a rank killed" "$code" 137
((spent_s <= timeout_s + grace_s)) || fail "rank 1 killed: the job took $spent_s s to end"

# Rank 1 of 3 leaves out a collective: from there on its operations have other numbers than theirs.
launch/mpirun.sh -n 3 --timeout "$job_seconds" "$bin_dir/out_of_step_program" "$scratch/heartbeats" 1 > "$scratch/out" 2>&1
expect "exit code with a rank out of step" $? 70
expect "culprits with a rank out of step" "$(grep -o '^culprit: rank [0-9]*' "$scratch/out")" "culprit: rank 1"
((failures == 0)) || show "$scratch/out"
report
