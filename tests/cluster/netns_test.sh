#!/usr/bin/env bash
# Four emulated hosts: ranks carry four host names, a shaped link holds its rate, an unshaped one exceeds it, nothing is left behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# shellcheck source=tests/cluster/hosts.sh
source ./hosts.sh
fail() { echo "FAILED: $1" >&2; exit 1; }
probe=${CONCLAVE_BIN_DIR:-../../build/ci/bin}/link_probe_program
[[ -x $probe ]] || fail "no $probe: build it first"
before=$(ip netns list)

trap './netns.sh down' EXIT
./netns.sh up 4 100mbit || fail "up 4 100mbit"
[[ $(./netns.sh hosts | wc -l) == 4 ]] || fail "not four hosts"
[[ $(./netns.sh exec 2 hostname) == cvxh2 ]] || fail "host 2 has another name"
! ./netns.sh up 2 2> /dev/null || fail "a second 'up' was accepted"

measure() { ./netns.sh run 4 "$probe" "$1" 2> /dev/null; }
output=$(measure 4194304) || fail "the probe did not run: $output"
hosts=$(sed -n 's/^hosts //p' <<< "$output")
[[ $hosts == "cvxh0 cvxh1 cvxh2 cvxh3" ]] || fail "ranks on '$hosts'"
shaped=$(sed -n 's/^mbit_per_second //p' <<< "$output")
# 4 MiB take a third of a second at this rate; the bucket lets 256 kB pass at once, so the figure may lie a little above the limit.
awk -v x="$shaped" 'BEGIN { exit !(x > 25 && x < 115) }' || fail "100 Mbit/s links carried $shaped Mbit/s"

./netns.sh rate none
free=$(measure 67108864 | sed -n 's/^mbit_per_second //p')
awk -v x="$free" 'BEGIN { exit !(x > 200) }' || fail "unshaped links carried $free Mbit/s"

# A host that is there refuses the connection to an idle port; one that is cut off does not answer.
knock() { ./netns.sh exec 0 timeout 1 bash -c 'exec 3<> /dev/tcp/cvxh1/9' 2>&1 || true; }
[[ $(knock) == *refused* ]] || fail "host 1 does not answer before the cut"
./netns.sh link 1 down
[[ $(knock) != *refused* ]] || fail "host 1 answers over a cut link"
./netns.sh link 1 up
[[ $(knock) == *refused* ]] || fail "host 1 does not answer after the mend"

./netns.sh down
[[ $(ip netns list) == "$before" ]] || fail "namespaces are left: $(ip netns list)"
[[ ! -e /etc/netns/cvxh0 && ! -e /run/conclave-netns-cvxh ]] || fail "files are left"
# With a processor for each, hosts share none, whether a program is started there or by mpirun, and they take in their own packets.
if (($(nproc) >= 2)); then
  ./netns.sh up 2 || fail "up 2"
  processors() { sed -n 's/^Cpus_allowed_list:\s*//p'; }
  first=$(./netns.sh exec 0 cat /proc/self/status | processors) second=$(./netns.sh exec 1 cat /proc/self/status | processors)
  [[ -n $first && -n $second && $first != "$second" ]] || fail "hosts on processors '$first' and '$second'"
  [[ $(./netns.sh run 2 cat /proc/self/status 2> /dev/null | processors | sort) == "$(printf '%s\n' "$first" "$second" | sort)" ]] ||
    fail "ranks are not on their hosts' processors"
  masks=$(for host in 0 1; do ./netns.sh exec "$host" cat /sys/class/net/eth0/queues/rx-0/rps_cpus; done | sort -u | wc -l)
  ((masks == 2)) || fail "both hosts' packets are taken in on the same processors"
  ./netns.sh down
fi
echo "100 Mbit/s links carried $shaped Mbit/s, unshaped ones $free"
