#!/usr/bin/env bash
# What a user can get wrong: one clear error that names the place, exit codes that are not 0, no hang.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
job_seconds=20
write_text "$scratch/text"
: > "$scratch/empty"
good=$scratch/moe.textproto
moe_config "$good" "$scratch/text"
short=(--set trainer.steps=3 --set optim.schedule.warmup_steps=0)
run_number=0

# refused WHAT RANKS CODE PATTERN ARGUMENTS...: the job ends with that code and says one error, which matches the pattern.
refused() {
  local what=$1 ranks=$2 wanted=$3 pattern=$4 errors
  shift 4
  job "$ranks" "$@"
  errors=$(grep -E '^error: |: error: ' "$scratch/out")
  expect "exit code ($what)" "$code" "$wanted"
  expect "number of errors ($what)" "$(grep -c . <<< "$errors")" 1
  # Long messages go on in lines of their own.
  grep -qE -- "$pattern" "$scratch/out" || fail "$what: no line matches '$pattern'"
  if [[ $code != "$wanted" || $errors != *[![:space:]]* ]]; then show "$scratch/out"; fi
}

# refused_train WHAT RANKS CODE PATTERN ARGUMENTS...: of training the good config with these arguments, in a new run folder.
refused_train() {
  local head=("${@:1:4}")
  shift 4
  run_number=$((run_number + 1))
  refused "${head[@]}" train "$good" --run-dir "$scratch/run-$run_number" "$@"
}

# spoilt SED_SCRIPT: a copy of the good config, changed.
spoilt() {
  sed "$1" "$good" > "$scratch/spoilt.textproto"
  ! cmp -s "$good" "$scratch/spoilt.textproto" || fail "'$1' changes nothing"
  echo "$scratch/spoilt.textproto"
}

# The command line.
refused "unknown command" 2 2 "unknown command 'trian'; did you mean 'train'" trian "$good"
refused "unknown option" 2 2 "unknown option '--resum'; did you mean '--resume'" train "$good" --resum
refused "option without its value" 2 2 "option '--batches' needs a value" eval "$scratch" --batches
refused "no config" 2 2 "missing argument CONFIG" train
refused "a tuned setting that no entrant has" 1 2 "--tune: none of the 1 entrants has a field 'optim.ogda.gama'" compare configs/vineq/ogda.textproto --tune optim.ogda.gama=1,2
refused "machines without a memory" 1 2 "--machines: of what memory\?" check "$good" --machines 2
refused "a memory beyond measure" 1 2 "--disk-gib: expected above 0 and at most" check "$good" --machines 2 --disk-gib 1e30
refused "config that is not there" 2 2 "absent.textproto" train "$scratch/absent.textproto"

# The config: place, what was expected, what to do.
refused "unknown field" 2 2 "spoilt.textproto:3:[0-9]+: error: .*stepz.*did you mean 'steps'" train "$(spoilt 's/ steps:/ stepz:/')"
refused "wrong type" 2 2 "spoilt.textproto:3:[0-9]+: error: .*(integer|number)" train "$(spoilt 's/workers: 6/workers: "six"/')"
refused "out of range" 2 2 "spoilt.textproto:5:[0-9]+: error: .*lr.*(greater than|above|> ) ?0" train "$(spoilt 's/lr: 0.003/lr: -1/')"
refused "unknown field in --set" 2 2 "error: .*stepz.*did you mean 'steps'" train "$good" --set trainer.stepz=3
refused "required field" 2 2 "error: .*name" train "$(spoilt '/^name:/d')"
refused "heads that do not divide the width" 2 2 "error: width 16 is not divisible by 3 heads" train "$(spoilt 's/heads: 2/heads: 3/')"
refused_train "experts that the axis cannot divide" 2 2 "6 experts cannot be split evenly over an expert axis of 4" --set parallel.expert=4
refused_train "a mesh of other size" 2 2 "data 3 x expert 1 = 3 ranks, but 2 were started" --set parallel.data=3
refused_train "ranks that the axis cannot divide" 3 2 "3 ranks cannot be split over an expert axis of 2; start a multiple of 2" --set parallel.expert=2
refused_train "more ranks than workers" 3 2 "3 ranks for 2 workers" --set trainer.workers=2
refused_train "vocabulary smaller than the tokenizer's" 2 2 "vocab_size 100 is too small for the tokenizer, which has 257" --set model.moe_lm.vocab_size=100
refused_train "a device that is not there" 2 1 "parallel.device: .*CUDA" --set parallel.device=CUDA

# The data.
refused_train "text that is not there" 2 1 "absent.txt.*does not exist" --set "data.sources[0].text.path=$scratch/absent.txt"
refused_train "empty text" 2 2 "empty.*is empty" --set "data.sources[0].text.path=$scratch/empty"
printf 'too short' > "$scratch/little"
refused_train "text shorter than a sample" 2 2 "little" --set "data.sources[0].text.path=$scratch/little"
refused_train "no source" 2 2 "error: .*source" --set 'data.sources=[]'
head -c 3000 "$scratch/text" > "$scratch/shard.bin"
refused_train "a file that is no shard" 2 2 "shard.bin.*magic" --set "data.sources[0].shards.path=$scratch/shard.bin"

# Run folders.
job 2 train "$good" --run-dir "$scratch/good" "${short[@]}"
expect "exit code of the good run" "$code" 0
refused "a run folder in use" 2 1 "already holds a run; give --resume" train "$good" --run-dir "$scratch/good" "${short[@]}"
refused "a change that a resumed run cannot have" 2 1 "model.moe_lm.width: 16 -> 32" train "$good" --run-dir "$scratch/good" "${short[@]}" --resume --set model.moe_lm.width=32
refused_train "nothing to resume" 2 1 "no usable checkpoint.*run-$((run_number + 1))" --resume
refused "no run folder" 2 1 "$scratch.*is no run folder" eval "$scratch"
refused "generate without a run" 1 1 "is no run folder" generate "$scratch" --prompt a
report
