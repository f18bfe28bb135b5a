#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2154
# What the tests of the program itself share: small runs, their launch, their ranks, their results. Sourced, never run.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
bin_dir=$(realpath "${CONCLAVE_BIN_DIR:-build/ci/bin}")
conclave=$bin_dir/conclave
[[ -x $conclave ]] || { echo "FAILED: no $conclave: build it first" >&2; exit 1; }
scratch=$(mktemp -d "${TEST_TMPDIR:-/tmp}/cli.XXXXXX")
cleanups=()  # commands to run before the scratch folder goes
finish() {
  local step
  for step in "${cleanups[@]}"; do eval "$step"; done
  rm -rf "$scratch"
}
trap finish EXIT
export TMPDIR=$scratch
# A job that outlives this time has hung (exit code 110).
job_seconds=${job_seconds:-60}

failures=0
fail() { echo "FAILED: $1" >&2; failures=$((failures + 1)); }
# expect WHAT GOT WANTED
expect() { [[ $2 == "$3" ]] || fail "$1: got '$2', expected '$3'"; }
# show FILE: the last lines of what a job printed, for a failure's reader.
show() { sed 's/^/    /' "$1" | tail -n "${2:-15}" >&2; }
report() { ((failures == 0)) || { echo "$failures checks failed" >&2; exit 1; }; }

milliseconds() { date +%s%3N; }

# Text with some structure and 6 lines to a document, the same at every call.
write_text() {
  local i
  for ((i = 0; i < ${2:-300}; ++i)); do
    echo "the $((i * 7919 % 97))th of $((i % 13)) said unto the $((i * 31 % 11))th"
    ((i % 6)) || echo
  done > "$1"
}

# moe_config FILE TEXT: a mixture of experts that can be split over 1, 2, 3 and 6 ranks; a step takes a few milliseconds.
moe_config() {
  cat > "$1" << CONFIG
name: "tiny_moe"
seed: 7
trainer { steps: 200 workers: 6 global_batch: 6 log_every: 1000 eval { batches: 2 } }
optim {
  first_order { lr: 0.003 rule { adamw { weight_decay: 0.1 } } }
  schedule { cosine {} warmup_steps: 10 }
  clip_norm: 1
}
model { moe_lm { layers: 2 width: 16 heads: 2 context: 16 moe { experts: 6 top_k: 2 hidden: 16 } } }
data { sources { text { path: "$2" } } cache_dir: "$scratch/cache" }
CONFIG
}

# game_config FILE: a saddle-point game by extragradient.
game_config() {
  cat > "$1" << 'CONFIG'
name: "tiny_game"
seed: 3
trainer { steps: 200 workers: 6 global_batch: 0 log_every: 1000 }
optim { extragradient { gamma: 0.3 } }
model { bilinear_game { dim: 48 heterogeneity: 0.5 } }
CONFIG
}

# job RANKS ARGUMENTS...: `conclave ARGUMENTS` on so many ranks by the launcher, its output to $scratch/out. Sets code.
job() {
  local ranks=$1
  shift
  launch/mpirun.sh -n "$ranks" --timeout "$job_seconds" "$conclave" "$@" > "$scratch/out" 2>&1
  code=$?
}

# start RANKS ARGUMENTS...: the same in the background. Sets launcher.
start() {
  local ranks=$1
  shift
  launch/mpirun.sh -n "$ranks" --timeout "$job_seconds" "$conclave" "$@" > "$scratch/out" 2>&1 &
  launcher=$!
}

# until_true PROCESS COMMAND...: polls while that process lives, for 30 s at most; false when the command never held.
until_true() {
  local process=$1 deadline=$(($(milliseconds) + 30000))
  shift
  until "$@"; do
    if (($(milliseconds) > deadline)) || ! kill -0 "$process" 2> /dev/null; then show "$scratch/out"; return 1; fi
    sleep 0.02
  done
}

# children PID: its child processes.
children() { cat "/proc/$1/task/"*/children 2> /dev/null; }

# rank_pid RANK: the process of that rank of the job started last. The kernel's lists of children may miss some while others come and go.
rank_pid() {
  local parent pid try
  for ((try = 0; try < 50; ++try)); do
    for parent in $(children "$launcher"); do
      for pid in $(children "$parent"); do
        if tr '\0' '\n' < "/proc/$pid/environ" 2> /dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1"; then echo "$pid" && return; fi
      done
    done
    sleep 0.02
  done
}

# steps_in RUN: how many steps the run's metrics hold; its checkpoints, ascending.
steps_in() { sed -n '/^{"step":/p' "$1/metrics.jsonl" 2> /dev/null | wc -l; }
has_steps() { (($(steps_in "$1") >= $2)); }
checkpoints_of() { find "$1/checkpoints" -mindepth 1 -maxdepth 1 -regex '.*/step-[0-9]+' -printf '%f\n' 2> /dev/null | sed 's/step-//' | sort -n; }
last_checkpoint() { checkpoints_of "$1" | tail -n 1; }

# state_fields RUN: the fields of its metrics that are functions of the state, a line a step.
state_fields() { sed -n 's/^\({"step":.*\),"wire":.*/\1/p' "$1/metrics.jsonl"; }
# shard_sums RUN STEP: checksums of the ranks' files of a checkpoint, whose bytes are functions of the state.
shard_sums() { (cd "$1/checkpoints/step-$2" && sha256sum -- *.safetensors); }
