#!/usr/bin/env bash
# For tests on emulated hosts: skips the test, with the reason, where this machine can have none. Sourced, never run.
skip() { echo "skipped: $1"; exit 77; }
((EUID == 0)) || skip "network namespaces need root"
command -v ip > /dev/null || skip "no program ip (package iproute2)"
unshare --net true 2> /dev/null && ip netns add cvxhprobe 2> /dev/null || skip "this kernel or container refuses network namespaces"
ip netns del cvxhprobe
