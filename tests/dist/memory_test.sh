#!/usr/bin/env bash
# The memory report under real MPI, where ranks of a node share memory for short messages. What is used at the peak of a step is within 10 %
# of the plan of before the first step, for runs so small that a stream of messages left out of the plan would be more than that.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
write_text "$scratch/text"
moe_config "$scratch/moe.textproto" "$scratch/text"
game_config "$scratch/game.textproto"

# near_plan RANKS CONFIG ARGUMENTS...: trains a few steps.
near_plan() {
  local ranks=$1 config=$2 what="$*" line off shared
  shift 2
  job "$ranks" train "$scratch/$config.textproto" --run-dir "$scratch/run" --set trainer.steps=16 "$@"
  expect "exit code of $what" "$code" 0
  ((code == 0)) || show "$scratch/out"
  rm -rf "$scratch/run"
  line=$(grep -o 'peak of a step, [+-][0-9.]* % off' "$scratch/out" | tail -n 1)
  off=$(grep -o '[0-9.]* %' <<< "$line")
  awk -v off="${off% %}" 'BEGIN { exit !(off != "" && off + 0 <= 10) }' || fail "'$line' with $what: at most 10 % allowed"
  shared=$(grep -c 'messages inside of the node' "$scratch/out")
  expect "lines of memory shared in the node with $what" "$shared" "$((ranks > 1 ? 1 : 0))"
}

for ranks in 1 2 3; do
  near_plan "$ranks" moe
  near_plan "$ranks" game
done
near_plan 2 moe --set parallel.expert=2
near_plan 2 moe --set parallel.data=1 --set parallel.expert=2 --set parallel.dispatch.pieces=2
near_plan 2 moe --set parallel.updates=SHARDED
near_plan 2 moe --set optim.first_order.exchange.quantized.codec.qsgd.levels=4
near_plan 2 moe --set optim.first_order.exchange.hierarchical.workers_per_group=3
report
