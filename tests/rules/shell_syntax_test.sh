#!/usr/bin/env bash
# Every shell script parses, is executable where it is a command, and passes shellcheck where that is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

failures=0
fail() { echo "$1" >&2; failures=$((failures + 1)); }

mapfile -t scripts < <(find launch tests bench .ci -type f \( -name '*.sh' -o -name '*.sbatch' -o -path .ci/run \) | sort)
[[ ${#scripts[@]} -ge 5 ]] || fail "found only ${#scripts[@]} scripts: is this the repository?"
for script in "${scripts[@]}"; do
  bash -n "$script" || fail "$script: does not parse"
  head -n 1 "$script" | grep -q '^#!.*bash' || fail "$script: no bash line at the top"
  if [[ $script != */packages.sh && ! -x $script ]]; then fail "$script: not executable (chmod +x)"; fi
done
if command -v shellcheck > /dev/null; then
  shellcheck --severity=warning --external-sources "${scripts[@]}" || fail "shellcheck found warnings"
fi
((failures == 0)) || exit 1
echo "${#scripts[@]} scripts are sound"
