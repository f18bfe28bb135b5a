#!/usr/bin/env bash
# Every config of the repository is accepted as it stands, and a spoilt copy is refused with a place and exit code 2.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
conclave=${CONCLAVE_BIN_DIR:-build/ci/bin}/conclave
[[ -x $conclave ]] || { echo "FAILED: no $conclave: build it first" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

failures=0
fail() { echo "FAILED: $1" >&2; failures=$((failures + 1)); }

mapfile -t configs < <(find configs -name '*.textproto' | sort)
((${#configs[@]} > 0)) || { echo "FAILED: no configs found" >&2; exit 1; }
for config in "${configs[@]}"; do
  "$conclave" check "$config" > "$scratch/out" 2>&1 || { fail "$config is refused:"; cat "$scratch/out" >&2; }
done

# In a copy of the whole folder, so that includes still resolve.
cp -r configs "$scratch/"
spoilt=$scratch/${configs[0]}
{ echo; echo 'no_such_field: 1'; } >> "$spoilt"
line=$(wc -l < "$spoilt")
code=0
"$conclave" check "$spoilt" > "$scratch/out" 2>&1 || code=$?
((code == 2)) || fail "an unknown field gave exit code $code, expected 2"
grep -q "$(basename "$spoilt"):$line:[0-9]*: .*no_such_field" "$scratch/out" || { fail "the message does not point at line $line:"; cat "$scratch/out" >&2; }

((failures == 0)) || exit 1
echo "${#configs[@]} configs are accepted"
