#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests. Its last lines are ctest's, its exit code too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/packages.sh

usage() {
  cat << 'HELP'
usage: tests/run.sh [--all] [--label LABEL]... [--preset NAME] [--jobs N]

  --all          also the labels slow, cluster and interop
  --label LABEL  only this label; may be repeated. Labels: unit dist golden gpu (the default set) slow cluster interop
  --preset NAME  configure preset to build and test (default ci): ci, dev, asan-ubsan, tsan
  --jobs N       parallel compilations and tests (default: all cores)
HELP
}

labels=()
preset=ci
jobs=$(nproc)
while (($#)); do
  case $1 in
    --all) labels+=(unit dist golden gpu slow cluster interop) ;;
    --label | --preset | --jobs)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      case $1 in
        --label) labels+=("$2") ;;
        --preset) preset=$2 ;;
        --jobs) jobs=$2 ;;
      esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
((${#labels[@]})) || labels=(unit dist golden gpu)
pattern=$(IFS='|'; echo "^(${labels[*]})$")

packages=("${build_packages[@]}" "${text_packages[@]}")
[[ " ${labels[*]} " == *" cluster "* ]] && packages+=("${cluster_packages[@]}")
install_packages "${packages[@]}"

# Without a GPU in sight the CUDA half is not built: it could not run here, and it takes minutes.
cuda=OFF
if command -v nvidia-smi > /dev/null && nvidia-smi -L 2> /dev/null | grep -q GPU; then cuda=AUTO; fi
cmake --preset "$preset" -DCONCLAVE_CUDA=$cuda
cmake --build "build/$preset" --parallel "$jobs"
exec ctest --test-dir "build/$preset" --label-regex "$pattern" --parallel "$jobs" --output-on-failure --no-tests=error --no-label-summary
