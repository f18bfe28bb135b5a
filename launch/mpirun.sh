#!/usr/bin/env bash
# Starts a program on several ranks with the settings that Open MPI 4 needs here, stops it gently, and cleans up behind it.
set -uo pipefail

# A shell that starts a job in the background without job control makes it ignore INT, and an ignored signal cannot be trapped.
if [[ $(trap -p INT) == "trap -- '' SIGINT" ]]; then exec env --default-signal=INT bash "${BASH_SOURCE[0]}" "$@"; fi

usage() {
  cat << 'HELP'
usage: launch/mpirun.sh -n RANKS [options] [--] PROGRAM [ARGUMENTS...]
   as: launch/mpirun.sh -n 2 conclave train configs/quickstart/moe_kjv.textproto

  -n RANKS          number of processes
  --hostfile FILE   hosts, one a line, "NAME slots=N"; without it, all ranks run here
  --stop-file PATH  how a stop is told apart: 'user' (Ctrl-C) or 'preempt' (TERM, USR1, HUP). `conclave train` is given this path as
                    --stop-file PATH. Default: the file `stop` of the folder after --run-dir, else a private one
  --timeout SECONDS end the job after this time, exit code 110
  --mca NAME VALUE  passed on to mpirun; may be repeated

PROGRAM `conclave` is build/release/bin/conclave where that exists, else the one on PATH.

The first INT or TERM lets `conclave train` finish its step and commit a checkpoint; a second INT kills the job.
Exit codes: 0 finished; 2 bad config or usage; 75 stopped with a checkpoint, resume me; 93 stopped by the user; 130 killed by a second INT;
any other: the code of the rank that failed first (137: killed).
HELP
}

fail() { echo "error: $1" >&2; exit 2; }

ranks='' hostfile='' stop_file='' timeout='' mca=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    -n | --hostfile | --stop-file | --timeout)
      [[ $# -ge 2 ]] || fail "$1 needs a value"
      case $1 in
        -n) ranks=$2 ;;
        --hostfile) hostfile=$2 ;;
        --stop-file) stop_file=$2 ;;
        --timeout) timeout=$2 ;;
      esac
      shift 2 ;;
    --mca)
      [[ $# -ge 3 ]] || fail "--mca needs a name and a value"
      mca+=(--mca "$2" "$3"); shift 3 ;;
    --) shift; break ;;
    -*) fail "unknown option '$1' (see --help)" ;;
    *) break ;;
  esac
done
[[ $ranks =~ ^[1-9][0-9]*$ ]] || fail "-n RANKS: a number from 1 on is needed, got '${ranks}'"
(($#)) || fail "no program given (see --help)"
[[ -z $hostfile || -r $hostfile ]] || fail "hostfile '$hostfile' cannot be read"
[[ -z $timeout || $timeout =~ ^[1-9][0-9]*$ ]] || fail "--timeout: whole seconds from 1 on, got '$timeout'"
command -v mpirun > /dev/null || fail "no mpirun on this machine: install the package openmpi-bin"

program=$1
shift
arguments=("$@")
if [[ $program == conclave ]]; then
  built="$(dirname "${BASH_SOURCE[0]}")/../build/release/bin/conclave"
  if [[ -x $built ]]; then program=$(realpath "$built"); fi
fi
command -v "$program" > /dev/null || fail "no program '$program': build it with cmake --workflow --preset release"

asked=''           # why a stop was asked for: user, preempt or killed
interrupted=false  # whether a signal came during the last wait
helpers=()         # background pieces of this script, ended with it

# Open MPI leaves its session folder and shared memory behind when it is killed, so both get a private place that is removed at the end.
session=$(mktemp -d "${TMPDIR:-/tmp}/conclave-mpi.XXXXXX") || exit 1
shared_memory=''
cleanup() { ((${#helpers[@]} == 0)) || kill "${helpers[@]}" 2> /dev/null; rm -rf -- "$session" ${shared_memory:+"$shared_memory"}; }
trap cleanup EXIT

gentle=false  # whether the program understands a stop file
if [[ $(basename "$program") == conclave && ${arguments[0]:-} == train ]]; then
  gentle=true
  if [[ -z $stop_file ]]; then
    stop_file=$session/stop
    for ((i = 0; i < ${#arguments[@]}; ++i)); do
      case ${arguments[i]} in
        --run-dir) stop_file=${arguments[i + 1]:-$session}/stop ;;
        --run-dir=*) stop_file=${arguments[i]#--run-dir=}/stop ;;
      esac
    done
  fi
  arguments+=(--stop-file "$stop_file")
elif [[ -n $stop_file ]]; then
  gentle=true
fi
[[ -z $stop_file ]] || rm -f -- "$stop_file"

command=(mpirun -n "$ranks" --bind-to none --mca mpi_yield_when_idle 1 --mca odls_base_sigkill_timeout 1 --mca orte_tmpdir_base "$session")
if [[ -n $hostfile ]]; then
  # A dead link shows after about 5 s instead of 8 minutes.
  command+=(--hostfile "$hostfile" --mca oob_tcp_keepalive_time 2 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 3)
else
  if ((ranks > $(nproc))); then command+=(--oversubscribe); fi
  if [[ -w /dev/shm ]]; then
    shared_memory=$(mktemp -d /dev/shm/conclave-mpi.XXXXXX)
    command+=(--mca btl_vader_backing_directory "$shared_memory")
  fi
fi
[[ -z $timeout ]] || command+=(--timeout "$timeout")
command+=("${mca[@]}" "$program" "${arguments[@]}")
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi


kill_job() {
  asked=killed
  echo "killing the job" >&2
  kill -TERM "$mpirun_pid" 2> /dev/null
  # The ranks are in groups of their own but in this session: whatever outlives mpirun's own clean-up ends here.
  (sleep 4; mapfile -t left < <(ps -o pid= -s "$mpirun_pid"); ((${#left[@]} == 0)) || kill -KILL "${left[@]}") > /dev/null 2>&1 &
}

# stop WHY: the gentle stop once, whoever asks; a program without one gets TERM.
stop() {
  interrupted=true
  if [[ -n $asked ]]; then
    if [[ $1 == user ]]; then kill_job; fi
    return
  fi
  asked=$1
  if ! $gentle; then kill -TERM "$mpirun_pid" 2> /dev/null; return; fi
  if [[ $1 == user ]]; then echo "stopping after this step, with a checkpoint; Ctrl-C again kills the job" >&2; fi
  mkdir -p -- "$(dirname "$stop_file")" && echo "$1" > "$stop_file.new" && mv -- "$stop_file.new" "$stop_file"
  kill -USR1 "$mpirun_pid" 2> /dev/null
  # mpirun drops what comes before its ranks run; a rank that has heard takes no harm from hearing it again.
  (for pause in 1 3; do sleep "$pause" && kill -USR1 "$mpirun_pid" 2> /dev/null || exit; done) > /dev/null 2>&1 &
  helpers+=($!)
}

# A session of its own: the terminal's Ctrl-C reaches this script alone, which then decides what the ranks hear.
setsid "${command[@]}" < /dev/null &
mpirun_pid=$!
trap 'stop user' INT
trap 'stop preempt' TERM USR1 HUP

while :; do
  interrupted=false
  wait "$mpirun_pid"
  code=$?
  $interrupted || break
done
[[ -z $stop_file ]] || rm -f -- "$stop_file"

if [[ $asked == killed ]]; then exit 130; fi
if $gentle && [[ -n $asked ]] && ((code == 138)); then
  # USR1 before a rank listens ends it: there was nothing to save yet.
  echo "stopped before the first step" >&2
  code=75
  if [[ $asked == user ]]; then code=93; fi
fi
case $code in
  0) ;;
  75) echo "stopped with a committed checkpoint (exit code 75): run the same command with --resume to go on" >&2 ;;
  93) echo "stopped by the user (exit code 93)" >&2 ;;
  2) echo "refused before the start (exit code 2): see the message above" >&2 ;;
  *) echo "the job failed with exit code $code$( ((code > 128 && code < 160)) && echo ": a rank ended by signal $(kill -l $((code - 128)))")" >&2 ;;
esac
exit "$code"
