#!/usr/bin/env bash
# Emulated hosts on one machine: network namespaces joined by a switch, each with its own address, host name and shaped link.
# Bandwidth is real (token bucket); delay and loss are not offered, since many kernels lack the module for them. TCP is Linux's usual, cubic,
# whatever this machine's is: one that sets its own pace (bbr) wakes a processor for every few packets. Where there are processors for all,
# every host has its own, which also take in its packets: else the timers of all links gather on one processor, and the ranks there fall
# behind the others by all that packets cost.
set -euo pipefail

prefix=cvxh        # unusual on purpose: `down` deletes namespaces of exactly this prefix and a number (or `sw`), nothing else
network=10.79.113  # /24 of the emulated hosts
state=/run/conclave-netns-$prefix

usage() {
  cat << HELP
usage: tests/cluster/netns.sh COMMAND (as root)

  up N [RATE]              N hosts (1 to 32) ${prefix}0, ${prefix}1, ... with links of RATE each way (as tc writes it: 100mbit), unlimited without
  rate RATE|none           reshape all links
  link HOST up|down        cut or mend the link of one host (its number)
  exec HOST COMMAND...     run a command on a host, under its host name
  run RANKS PROGRAM...     mpirun over all hosts, ranks dealt out evenly; options for mpirun may precede the program
  hosts                    names of the hosts, one a line
  down                     kill what still runs there and remove everything
HELP
}

fail() { echo "error: $1" >&2; exit 2; }

own_namespaces() { ip netns list | awk '{print $1}' | grep -xE "$prefix([0-9]+|sw)" || true; }
host_count() { own_namespaces | grep -cxE "${prefix}[0-9]+" || true; }
need_hosts() { [[ -r $state/hosts ]] || fail "no emulated hosts: call 'up N' first"; }

add_host() {
  local number=$1 count=$2 name=$prefix$1 other
  ip netns add "$name"
  ip -n "$name" link add eth0 type veth peer name "p$number" netns "${prefix}sw"
  ip -n "${prefix}sw" link set "p$number" master switch up
  ip -n "$name" addr add "$network.$((number + 1))/24" dev eth0
  ip -n "$name" link set lo up
  ip -n "$name" link set eth0 up
  use_cubic "$number"
  own_processors "$number" "$count"
  mkdir -p "/etc/netns/$name"
  {
    echo "127.0.0.1 localhost"
    for ((other = 0; other < count; ++other)); do echo "$network.$((other + 1)) $prefix$other"; done
  } > "/etc/netns/$name/hosts"
  echo "$name" >> "$state/hosts"
}

# use_cubic NUMBER: where the kernel has it; a link that goes down forgets.
use_cubic() {
  ip -n "$prefix$1" route replace "$network.0/24" dev eth0 proto kernel scope link src "$network.$(($1 + 1))" congctl cubic 2> /dev/null || true
}

# own_processors NUMBER COUNT: those numbers, of the processors allowed here, that leave NUMBER over after division by COUNT; all where they
# are fewer than hosts. Kept for those who start programs there, and set for what arrives there.
own_processors() {
  local number=$1 count=$2 all own=() i mask=0
  mapfile -t all < <(allowed_processors)
  if ((${#all[@]} < count)); then
    (IFS=,; echo "${all[*]}") > "$state/processors.$prefix$number"
    return 0
  fi
  for i in "${!all[@]}"; do ((i % count != number)) || own+=("${all[i]}"); done
  (IFS=,; echo "${own[*]}") > "$state/processors.$prefix$number"
  for i in "${own[@]}"; do ((i >= 31)) || mask=$((mask | 1 << i)); done
  ip netns exec "$prefix$number" sh -c "echo $(printf '%x' $mask) > /sys/class/net/eth0/queues/rx-0/rps_cpus" 2> /dev/null || true
}
# allowed_processors: numbers of the processors that this shell may use, one a line.
allowed_processors() {
  awk '/^Cpus_allowed_list/ { n = split($2, runs, ","); for (i = 1; i <= n; ++i) { split(runs[i] "-" runs[i], ends, "-"); for (c = ends[1]; c <= ends[2]; ++c) print c } }' \
    /proc/self/status
}

# The remote shell that mpirun calls as: agent HOST COMMAND...
write_agent() {
  cat > "$state/agent.sh" << 'AGENT'
#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
host=$1
shift
state=$(dirname "${BASH_SOURCE[0]}")
exec ip netns exec "$host" taskset -c "$(< "$state/processors.$host")" unshare --uts bash -c 'hostname "$1"; shift; eval "$*"' _ "$host" "$@"
AGENT
  chmod +x "$state/agent.sh"
}

up() {
  local count=${1:-} rate=${2:-none} number
  [[ $count =~ ^[0-9]+$ ]] && ((count >= 1 && count <= 32)) || fail "up N: a number of hosts from 1 to 32, got '$count'"
  [[ -z $(own_namespaces) ]] || fail "emulated hosts are up already: call 'down' first"
  rm -rf "$state"
  mkdir -p "$state/mpi"
  trap down EXIT  # half a cluster is no cluster
  ip netns add "${prefix}sw"
  ip -n "${prefix}sw" link add switch type bridge
  ip -n "${prefix}sw" link set switch up
  for ((number = 0; number < count; ++number)); do add_host "$number" "$count"; done
  write_agent
  rate "$rate"
  trap - EXIT
}

rate() {
  local rate=${1:-} number end
  need_hosts
  [[ -n $rate ]] || fail "rate RATE|none"
  for ((number = 0; number < $(host_count); ++number)); do
    for end in "$prefix$number eth0" "${prefix}sw p$number"; do  # what the host sends, what it receives
      read -r namespace device <<< "$end"
      if [[ $rate == none ]]; then
        tc -n "$namespace" qdisc del dev "$device" root 2> /dev/null || true
      else
        tc -n "$namespace" qdisc replace dev "$device" root tbf rate "$rate" burst 256kb latency 50ms
      fi
    done
  done
}

link() {
  need_hosts
  [[ ${2:-} == up || ${2:-} == down ]] || fail "link HOST up|down"
  ip -n "$prefix$1" link set eth0 "$2"
  [[ $2 == down ]] || use_cubic "$1"
}

on_host() {
  local name=$prefix$1
  shift
  grep -qx "$name" "$state/hosts" || fail "no host $name"
  ip netns exec "$name" taskset -c "$(< "$state/processors.$name")" unshare --uts bash -c 'hostname "$1"; shift; exec "$@"' _ "$name" "$@"
}

run() {
  local ranks=${1:-}
  [[ $ranks =~ ^[1-9][0-9]*$ ]] || fail "run RANKS PROGRAM...: a number of ranks from 1 on, got '$ranks'"
  shift
  need_hosts
  local hosts
  hosts=$(host_count)
  sed "s/\$/ slots=$(((ranks + hosts - 1) / hosts))/" "$state/hosts" > "$state/hostfile"
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  on_host 0 mpirun -n "$ranks" --hostfile "$state/hostfile" --map-by node \
    --mca plm rsh --mca plm_rsh_agent "$state/agent.sh" --mca plm_rsh_no_tree_spawn 1 --mca orte_tmpdir_base "$state/mpi" \
    --mca pml ob1 --mca btl self,tcp --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 \
    --mca oob_tcp_keepalive_time 2 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 3 \
    --bind-to none --mca mpi_yield_when_idle 1 "$@"
}

down() {
  local name
  for name in $(own_namespaces); do
    ip netns pids "$name" | xargs -r kill -KILL 2> /dev/null || true
    ip netns del "$name"
    rm -rf "/etc/netns/$name"
  done
  rmdir /etc/netns 2> /dev/null || true
  rm -rf "$state"
}

[[ ${1:-} != -h && ${1:-} != --help && $# -gt 0 ]] || { usage; exit 0; }
((EUID == 0)) || fail "network namespaces need root"
command -v ip > /dev/null || fail "no program ip: install the package iproute2"
command=$1
shift
case $command in
  up) up "$@" ;;
  rate) rate "$@" ;;
  link) need_hosts; link "$@" ;;
  exec) need_hosts; on_host "$@" ;;
  run) run "$@" ;;
  hosts) need_hosts; cat "$state/hosts" ;;
  down) down ;;
  *) fail "unknown command '$command' (see --help)" ;;
esac
