#!/usr/bin/env bash
# Rank counts and expert splits under real MPI. WORLD_SIZE_INVARIANT: equal bits of every metric and of every parameter after 50 steps.
# FIXED_MESH in double precision: parameters within 1e-12 after 20 steps. The split over experts alone leaves ranks without tokens of some worker.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
write_text "$scratch/text"
moe_config "$scratch/moe.textproto" "$scratch/text"
base=(train "$scratch/moe.textproto" --set trainer.workers=8 --set trainer.global_batch=8 --set model.moe_lm.moe.experts=8)
meshes=(1x1 2x1 1x2 4x1 2x2 1x4)

# train_mesh NAME MESH ARGUMENTS...
train_mesh() {
  local name=$1 data=${2%x*} expert=${2#*x}
  shift 2
  job $((data * expert)) "${base[@]}" --run-dir "$scratch/$name" --set "parallel.data=$data" --set "parallel.expert=$expert" "$@"
  expect "exit code of $name" "$code" 0
  ((code == 0)) || show "$scratch/out"
}
# difference A B: "tensors N equal_bits E max_relative D worst NAME"
difference() { "$bin_dir/checkpoint_diff_program" "$scratch/$1" "$scratch/$2"; }

for mesh in "${meshes[@]}"; do
  train_mesh "invariant-$mesh" "$mesh" --set parallel.numerics=WORLD_SIZE_INVARIANT --set trainer.steps=50
  [[ $mesh != 1x1 ]] || continue
  cmp <(state_fields "$scratch/invariant-1x1") <(state_fields "$scratch/invariant-$mesh") || fail "metrics on $mesh are not those of one rank"
  read -r _ tensors _ equal _ <<< "$(difference invariant-1x1 "invariant-$mesh")"
  expect "tensors with equal bits on $mesh" "$equal" "$tensors"
  ((tensors > 10)) || fail "only $tensors tensors were compared"
done
expect "lines compared" "$(state_fields "$scratch/invariant-1x1" | wc -l)" 50

for mesh in "${meshes[@]}"; do
  train_mesh "double-$mesh" "$mesh" --set model.precision.compute=F64 --set trainer.steps=20
  [[ $mesh != 1x1 ]] || continue
  read -r _ tensors _ _ _ apart _ worst <<< "$(difference double-1x1 "double-$mesh")"
  awk -v d="$apart" 'BEGIN { exit !(d != "" && d + 0 <= 1e-12) }' || fail "$worst is $apart apart on $mesh, at most 1e-12 allowed"
done
report
