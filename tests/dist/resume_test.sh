#!/usr/bin/env bash
# A run killed after the checkpoints of step 70 and of step 140 and resumed has the bits of one that never stopped: every metric that is a
# function of the state, every byte of the last checkpoint. On 1, 2 and 3 ranks, with AdamW and with extragradient.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
write_text "$scratch/text"
moe_config "$scratch/moe.textproto" "$scratch/text"
game_config "$scratch/game.textproto"

# kill_after_commit STEP RUN RANKS ARGUMENTS...: trains until that step is committed, then kills every rank.
kill_after_commit() {
  local step=$1 run=$2 ranks=$3 pids=() rank
  shift 3
  start "$ranks" train "$@" --run-dir "$run" --set checkpoint.every=70 --set checkpoint.keep_last=9
  until_true "$launcher" test -d "$run/checkpoints/step-$step" || fail "step $step was never committed"
  for ((rank = 0; rank < ranks; ++rank)); do pids+=("$(rank_pid "$rank")"); done
  kill -KILL "${pids[@]}" 2> /dev/null
  wait "$launcher"
  # A quick machine may have come further: what comes after the step is not to be used.
  for later in $(checkpoints_of "$run"); do ((later <= step)) || rm -r "$run/checkpoints/step-$later"; done
}

for kind in moe game; do
  for ranks in 1 2 3; do
    what="$kind on $ranks ranks"
    straight=$scratch/$kind-$ranks-straight stopped=$scratch/$kind-$ranks-stopped
    options=("$scratch/$kind.textproto")
    if [[ $kind == moe ]]; then options+=(--set "parallel.expert=$ranks"); fi
    job "$ranks" train "${options[@]}" --run-dir "$straight"
    expect "exit code of $what" "$code" 0
    ((code == 0)) || { show "$scratch/out"; continue; }
    kill_after_commit 70 "$stopped" "$ranks" "${options[@]}"
    kill_after_commit 140 "$stopped" "$ranks" "${options[@]}" --resume
    job "$ranks" train "${options[@]}" --run-dir "$stopped" --resume
    expect "exit code of the resumed $what" "$code" 0
    ((code == 0)) || show "$scratch/out"
    grep -q 'resumed from .*step-140' "$scratch/out" || fail "$what did not resume at step 140"
    expect "steps of $what" "$(steps_in "$stopped")" 200
    cmp <(state_fields "$straight") <(state_fields "$stopped") || fail "metrics of $what differ"
    expect "state fields of $what" "$(state_fields "$stopped" | wc -l)" 200
    expect "files of $what" "$(shard_sums "$stopped" 200)" "$(shard_sums "$straight" 200)"
    [[ -n $(shard_sums "$straight" 200) ]] || fail "no files in the last checkpoint of $what"
  done
done
report
