#!/usr/bin/env bash
# From a bare Debian 12 machine to a trained mixture of experts: packages, build, text, tokenizer, training on two ranks, evaluation,
# resume, a generated passage. What is up to date is skipped, so that a second call trains at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/packages.sh

usage() {
  cat << 'HELP'
usage: launch/quickstart.sh [--ranks N] [--steps N] [--run-dir DIR] [--jobs N]

  --ranks N      processes (default 2): the experts are split between them
  --steps N      training steps instead of the config's
  --run-dir DIR  where the run writes (default: a new folder runs/quickstart/DATE-TIME)
  --jobs N       parallel compilations (default: all cores)
HELP
}

ranks=2 steps='' run_dir='' jobs=$(nproc)
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --ranks | --steps | --run-dir | --jobs)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      if [[ $1 != --run-dir && ! $2 =~ ^[1-9][0-9]*$ ]]; then echo "error: $1: a number from 1 on is needed, got '$2'" >&2; exit 2; fi
      case $1 in
        --ranks) ranks=$2 ;;
        --steps) steps=$2 ;;
        --run-dir) run_dir=$2 ;;
        --jobs) jobs=$2 ;;
      esac
      shift 2 ;;
    *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

config=configs/quickstart/moe_kjv.textproto
text=runs/data/kjv.txt  # the config names this file
conclave=build/release/bin/conclave
resume_steps=10
run_dir=${run_dir:-runs/quickstart/$(date +%Y%m%d-%H%M%S)}

milliseconds() { date +%s%3N; }
began=$(milliseconds)
times=()
# timed NAME COMMAND...: runs it under a headline and notes its wall time.
timed() {
  local name=$1 start
  shift
  echo "== $name ==" >&2
  start=$(milliseconds)
  "$@"
  local spent=$(($(milliseconds) - start))
  times+=("$(printf '%-12s %4d.%d s' "$name" $((spent / 1000)) $((spent % 1000 / 100)))")
}

build() {
  local cuda=OFF
  if command -v nvidia-smi > /dev/null && nvidia-smi -L 2> /dev/null | grep -q GPU; then cuda=AUTO; fi
  # The build re-runs CMake by itself when a CMake file changes.
  if [[ ! -e build/release/build.ninja ]]; then
    mkdir -p build/release
    cmake --preset release -DCONCLAVE_CUDA=$cuda > build/release/configure.log 2>&1 || { cat build/release/configure.log >&2; return 1; }
  fi
  cmake --build build/release --target conclave --parallel "$jobs"
}

# One verse a line without its reference; an empty line after a chapter, a second one after a book.
make_text() {
  [[ ! -s $text ]] || return 0
  mkdir -p "$(dirname "$text")"
  bible -f Gen1:1-Rev22:21 | awk '{
    split($1, place, ":"); book = place[1]; sub(/[0-9]+$/, "", book)
    if (NR > 1 && place[1] != chapter) print (book == last ? "" : "\n")
    chapter = place[1]; last = book
    sub(/^[^ ]+ +/, ""); gsub(/[ \t]+/, " "); sub(/ $/, ""); print }' > "$text.new"
  local lines
  lines=$(grep -c . "$text.new" || true)
  if ((lines < 31000)); then echo "error: bible printed $lines verses, expected 31102: is the package bible-kjv-text whole?" >&2; return 1; fi
  mv "$text.new" "$text"
}

train() {
  local more=("$@")
  if [[ -n $steps ]]; then
    [[ " ${more[*]} " == *trainer.steps* ]] || more+=(--set "trainer.steps=$steps")
    more+=(--set "optim.schedule.warmup_steps=$((steps / 10))")  # the config's may not fit into so few
  fi
  # The ranks' own output is a pipe, so whether a person watches is known here alone.
  [[ ! -t 2 ]] || more+=(--set observe.progress=BAR)
  launch/mpirun.sh -n "$ranks" conclave train "$config" --run-dir "$run_dir" "${more[@]}"
}

# The step of the newest committed checkpoint.
last_step() { find "$run_dir/checkpoints" -maxdepth 1 -name 'step-*' ! -name '*.tmp-*' | sed -n 's/.*step-0*\([0-9][0-9]*\)$/\1/p' | sort -n | tail -n 1; }

resume() {
  local done_steps
  done_steps=$(last_step)
  train --resume --set "trainer.steps=$((${done_steps:-0} + resume_steps))"
}

install_packages "${build_packages[@]}" "${text_packages[@]}"
echo "packages are there after $((($(milliseconds) - began) / 1000)) s" >&2
timed build build
timed text make_text
timed tokenize "$conclave" tokenize "$config"
echo "training starts $((($(milliseconds) - began) / 1000)) s after the call; run folder $run_dir" >&2
timed train train
timed eval "$conclave" eval "$run_dir"
timed resume resume
timed generate "$conclave" generate "$run_dir" --prompt "And it came to pass" --tokens 200 --temperature 0.8 --seed 1

spent=$(($(milliseconds) - began))
echo
printf '%s\n' "${times[@]}"
printf '%-12s %4d.%d s\n' total $((spent / 1000)) $((spent % 1000 / 100))
echo "run folder: $run_dir"
