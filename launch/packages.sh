#!/usr/bin/env bash
# shellcheck shell=bash disable=SC2034
# The Debian packages this project needs, in one place, and the function that installs what is missing. Sourced, never run.

# To build the program.
build_packages=(g++ cmake ninja-build libgtest-dev libbenchmark-dev openmpi-bin libopenmpi-dev libdnnl-dev libopenblas-dev
  protobuf-compiler libprotobuf-dev libabsl-dev libsentencepiece-dev zlib1g-dev)
# The text of the quickstart and of some tests.
text_packages=(bible-kjv bible-kjv-text)
# Competitors in `conclave bench`, used where they are found at configure time; nothing installs them unasked.
peer_packages=(libmetis-dev)
# Emulated hosts: tests with the label cluster.
cluster_packages=(iproute2)

# missing_packages NAME...: those of the named packages that are not installed, one a line.
missing_packages() {
  local installed
  # dpkg-query fails when it does not know a name, which is what is being asked: no error here, whatever the caller's shell options.
  installed=$(dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' "$@" 2> /dev/null | sed -n 's/ installed$//p') || true
  local name
  for name in "$@"; do
    grep -qxF -- "$name" <<< "$installed" || echo "$name"
  done
}

# install_packages NAME...: installs what is missing by apt, as root or by sudo without a password; says so when it cannot.
install_packages() {
  if ! command -v dpkg-query > /dev/null; then
    echo "This system has no dpkg: taking it that the equivalents of these packages are there: $*" >&2
    return 0
  fi
  local missing
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  local command=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120)
  if ((EUID != 0)); then command=(sudo -n "${command[@]}"); fi
  local install=("${command[@]}" install -y --no-install-recommends "${missing[@]}")
  echo "Installing ${missing[*]}" >&2
  local log
  log=$(mktemp)
  # The package lists are fetched only where those at hand do not do.
  if "${install[@]}" > "$log" 2>&1 || { "${command[@]}" update > "$log" 2>&1 && "${install[@]}" >> "$log" 2>&1; }; then
    rm -f "$log"
    return 0
  fi
  tail -n 5 "$log" >&2
  rm -f "$log"
  echo "error: could not install ${missing[*]}. As root, run: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
  return 1
}
