#!/usr/bin/env bash
# Planning offline, as a user does it: a trace is made, shown, converted and planned on; planning again moves nothing; bad input is refused.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
trace=$scratch/trace.npy

# run WHAT CODE ARGUMENTS...: the output is in $scratch/out.
run() {
  local what=$1 wanted=$2 code=0
  shift 2
  "$conclave" "$@" > "$scratch/out" 2>&1 || code=$?
  expect "exit code ($what)" "$code" "$wanted"
  if [[ $code != "$wanted" ]]; then show "$scratch/out"; fi
}
# says WHAT PATTERN: a line of the last output.
says() { grep -qE -- "$2" "$scratch/out" || { fail "$1: no line matches '$2'"; show "$scratch/out"; }; }
# value NAME: a number of the last output's JSON object.
value() { grep -oE "\"$1\":[-0-9.e]+" "$scratch/out" | head -n 1 | cut -d : -f 2; }

run "make" 0 trace markov "$trace" --layers 4 --experts 16 --tokens 2000 --sigma 2
run "to csv" 0 trace convert "$trace" "$scratch/trace.csv"
run "back" 0 trace convert "$scratch/trace.csv" "$scratch/again.npy"
cmp -s "$trace" "$scratch/again.npy" || fail "a trace converted to .csv and back differs"
cmp -s "$trace.header" "$scratch/again.npy.header" || fail "the header of a trace converted to .csv and back differs"
run "show" 0 trace show "$trace"
says "show" '^experts +16, 1 a token$'

run "affinity" 0 trace affinity "$trace" --ranks 2,4 --effort 2 --json
[[ $(grep -c '"fewer_hops":0\.[0-9]' "$scratch/out") == 2 ]] || { fail "affinity: expected a line for 2 and one for 4 ranks"; show "$scratch/out"; }
# Eight experts: the plan is the optimum whatever the effort.
run "make eight" 0 trace markov "$scratch/eight.npy" --layers 12 --experts 8 --tokens 2000 --sigma 1
run "affinity of eight, no effort" 0 trace affinity "$scratch/eight.npy" --ranks 2,4 --effort 0 --json
cp "$scratch/out" "$scratch/no_effort"
run "affinity of eight" 0 trace affinity "$scratch/eight.npy" --ranks 2,4 --effort 5 --json
cmp -s "$scratch/no_effort" "$scratch/out" || fail "affinity of eight experts depends on the effort"
run "affinity on 3 ranks" 2 trace affinity "$trace" --ranks 3
run "plan" 0 place "$trace" --ranks 4 --nodes 2 --effort 2 --half --replicas 20 --evaluate "$scratch/trace.csv" --out "$scratch/plan.json"
says "plan" '^plan, other half '
says "plan" '^replicas +20 slots'
run "first plan" 0 place "$trace" --ranks 4 --nodes 2 --effort 2 --out "$scratch/plan.json" --json
cost=$(value cost)
run "second plan" 0 place "$trace" --ranks 4 --nodes 2 --effort 2 --current "$scratch/plan.json" --json
expect "moves of a second plan" "$(value moves)" 0
expect "cost of a second plan" "$(value cost)" "$cost"
awk -v bound="$(value lower_bound)" -v cost="$cost" 'BEGIN { exit !(bound <= cost) }' || fail "the bound is above the plan"
run "contiguous" 0 place "$trace" --ranks 4 --nodes 2 --solver contiguous --json
awk -v plan="$cost" -v contiguous="$(value cost)" 'BEGIN { exit !(plan < contiguous) }' || fail "the plan is no better than contiguous"
run "a small problem" 0 place "$trace" --ranks 16
says "16 experts on 16 ranks" 'by affinity$'

run "training's objective" 0 place "$trace" --ranks 4 --nodes 2 --objective coactivation --effort 2 --sequence 125 --half
says "training's objective" '^plan, sequences placed too '
run "a joint plan" 0 place "$trace" --ranks 4 --nodes 2 --objective coactivation --effort 2 --homes-in-order --json
awk -v flat="$(grep -oE '"FLAT":\{[^}]*' "$scratch/out" | head -n 1 | grep -oE '[0-9]+$')" 'BEGIN { exit !(flat > 0) }' || fail "no rows between nodes"
run "the chain as a program" 0 place "$trace" --ranks 4 --effort 0 --write-lp "$scratch/chain.lp"
grep -q '^Binary' "$scratch/chain.lp" || fail "no binaries in the program"
run "unknown objective" 2 place "$trace" --ranks 4 --objective chains
says "unknown objective" 'known: chain, coactivation'
for option in "--sequence 125" --homes-in-order; do
  # shellcheck disable=SC2086  # an option and its value
  run "$option without the objective" 2 place "$trace" --ranks 4 --effort 0 $option
  says "$option without the objective" "${option%% *}: only --objective coactivation has it"
done
for option in "--write-lp $scratch/none.lp" "--replicas 20"; do
  # shellcheck disable=SC2086
  run "$option beside coactivation" 2 place "$trace" --ranks 4 --effort 0 --objective coactivation $option
  says "$option beside coactivation" "${option%% *}: only --objective chain has it"
done
[[ ! -e $scratch/none.lp ]] || fail "a program was written for the other objective"
run "sequences that do not divide" 2 place "$trace" --ranks 4 --objective coactivation --effort 0 --sequence 999
says "sequences that do not divide" '2000 tokens are no whole number of sequences of 999'

run "no ranks" 2 place "$trace"
says "no ranks" 'missing option --ranks'
run "ranks that do not divide" 2 place "$trace" --ranks 3
says "ranks that do not divide" '16 experts cannot be split evenly over 3 ranks'
run "unknown solver" 2 place "$trace" --ranks 4 --solver afinity
says "unknown solver" "did you mean 'affinity'"
run "beyond the exact solver" 1 place "$trace" --ranks 4 --solver exact
says "beyond the exact solver" 'use solver affinity'
run "too few slots" 2 place "$trace" --ranks 4 --effort 0 --replicas 12
says "too few slots" '12 slots for 16 experts'
run "missing trace" 1 place "$scratch/none.csv" --ranks 2
says "missing trace" 'none.csv'
head -c 500 "$trace" > "$scratch/cut.npy"
run "cut trace" 2 place "$scratch/cut.npy" --ranks 2 --experts 16
says "cut trace" "cut.npy': npy: "
printf '0,1\n2\n' > "$scratch/ragged.csv"
run "ragged trace" 2 place "$scratch/ragged.csv" --ranks 2 --experts 4
says "ragged trace" "ragged.csv': line 2: 1 ids, the lines before have 2"
run "current of other ranks" 2 place "$trace" --ranks 8 --nodes 2 --current "$scratch/plan.json"
says "current of other ranks" 'ranks: expected 8, got 4'
report
