#!/usr/bin/env bash
# Measures every figure that the foundation promises on the real program. A line each: ok or SHORT, the figure, the target, what it is; a
# count last. Exit code 1 when anything falls short; what cannot be measured here falls short.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
source bench/acceptance/figures.sh

usage() {
  cat << 'HELP'
usage: bench/acceptance/foundation.sh [--quick] [--bin-dir DIR] [--data DIR]

  --quick        the part that fits in 60 seconds; it builds nothing
  --bin-dir DIR  the program and the test programs (default build/ci/bin; built when absent, unless --quick)
  --data DIR     folder with tinyshakespeare/input.txt (default ../shared/data beside the repository)
HELP
}

quick=false bin_dir=build/ci/bin data_dir=../shared/data
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --quick) quick=true ;;
    --bin-dir | --data)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      case $1 in
        --bin-dir) bin_dir=$2 ;;
        --data) data_dir=$2 ;;
      esac
      shift ;;
    *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

if ! $quick; then
  build_from_nothing
  unit_suite
  [[ -x $bin_dir/conclave ]] || build_tests
fi
if [[ ! -x $bin_dir/conclave ]]; then
  short "not built" "built" "the program $bin_dir/conclave"
  summary
fi
prepare

start_up
game_rate
game_divergence
pca_optimum
invariant_bits
double_parity
if $quick; then
  resume_bits 1 game
  resume_bits 2 moe
else
  for ranks in 1 2 3; do
    for kind in moe game; do resume_bits "$ranks" "$kind"; done
  done
  scripts=(bad_input bad_checkpoint signals hang)
  for script in "${scripts[@]}"; do test_script "$script"; done
  unit_laws
  quality
  quickstart
  sanitizer asan-ubsan
  sanitizer tsan
fi
summary
