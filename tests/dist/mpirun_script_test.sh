#!/usr/bin/env bash
# launch/mpirun.sh: exit codes pass through, INT and TERM become a gentle stop with the right reason, a second INT kills, nothing is left.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
script=$PWD/launch/mpirun.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch  # where the script makes its session folder

failures=0
fail() { echo "FAILED: $1" >&2; failures=$((failures + 1)); }
# expect WHAT GOT WANTED
expect() { [[ $2 == "$3" ]] || fail "$1: got '$2', expected '$3'"; }

# A stand-in that obeys the contract of `conclave train`: USR1 ends it after a while, by the reason in the stop file.
mkdir "$scratch/gentle" "$scratch/deaf"
cat > "$scratch/gentle/conclave" << 'PROGRAM'
#!/usr/bin/env bash
heard=false
trap 'heard=true' USR1
echo "$@" >> "$LOG.arguments"
stop_file=${*: -1}
: >> "$LOG.ready.$OMPI_COMM_WORLD_RANK"
for _ in {1..200}; do
  sleep 0.05
  $heard || continue
  why=$(< "$stop_file")
  echo "$why" >> "$LOG.reasons"
  sleep 0.3
  [[ $why == user ]] && exit 93
  exit 75
done
PROGRAM
printf '#!/usr/bin/env bash\ntrap "" TERM USR1\n: >> "$LOG.ready.$OMPI_COMM_WORLD_RANK"\nsleep 100\n' > "$scratch/deaf/conclave"
chmod +x "$scratch"/*/conclave

# start KIND RANKS: the stand-in of that kind in the background, until all its ranks are up. Sets pid and LOG.
start() {
  LOG=$(mktemp "$scratch/log.XXXXXX")
  export LOG
  "$script" -n "$2" "$scratch/$1/conclave" train some.textproto --run-dir "$scratch/run" > "$LOG" 2>&1 &
  pid=$!
  for _ in {1..200}; do
    mapfile -t ready < <(compgen -G "$LOG.ready.*")
    ((${#ready[@]} < $2)) || return 0
    sleep 0.05
  done
  fail "the ranks did not start: $(cat "$LOG")"
}

for case in INT:93:user TERM:75:preempt USR1:75:preempt; do
  IFS=: read -r signal code reason <<< "$case"
  start gentle 3
  kill -"$signal" "$pid"
  wait "$pid"
  expect "exit code after $signal" $? "$code"
  expect "reasons after $signal" "$(sort -u "$LOG.reasons")" "$reason"
  expect "arguments" "$(sort -u "$LOG.arguments")" "train some.textproto --run-dir $scratch/run --stop-file $scratch/run/stop"
  [[ ! -e $scratch/run/stop ]] || fail "the stop file is left after $signal"
done

start deaf 2
kill -INT "$pid"
sleep 0.3
kill -INT "$pid"
wait "$pid"
expect "exit code after two INTs" $? 130

for code in 0 2 3 75 93; do
  "$script" -n 2 bash -c "exit $code" > /dev/null 2>&1
  expect "exit code of ranks that exit $code" $? "$code"
done
"$script" -n 2 bash -c 'kill -KILL $$' > "$scratch/out" 2>&1
expect "exit code of killed ranks" $? 137
expect "last line" "$(tail -n 1 "$scratch/out")" "the job failed with exit code 137: a rank ended by signal KILL"
"$script" -n 1 --timeout 1 sleep 30 > /dev/null 2>&1
expect "exit code of a job over its time" $? 110

for bad in "-n 0 true" "-n two true" "-n 2" "-n 2 no-such-program" "-n 2 --hostfile absent true" "--what" "-n 1 --timeout soon true"; do
  read -ra words <<< "$bad"
  "$script" "${words[@]}" > "$scratch/out" 2>&1
  expect "exit code of '$bad'" $? 2
  expect "lines about '$bad'" "$(grep -c '^error: ' "$scratch/out") $(wc -l < "$scratch/out")" "1 1"
done

expect "ranks as asked for" "$("$script" -n 5 bash -c 'echo rank' | grep -c rank)" 5
left=$(find "$scratch" -maxdepth 1 -name 'conclave-mpi.*')
[[ -z $left ]] || fail "session folders are left: $left"

((failures == 0)) || exit 1
