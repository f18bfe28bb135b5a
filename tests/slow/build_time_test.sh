#!/usr/bin/env bash
# The program builds from nothing, without a compiler cache, within the quickstart's share of 3.5 minutes on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
limit_s=210
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
export CCACHE_DISABLE=1

start=$(date +%s%3N)
cmake --preset release -B "$build" -DCONCLAVE_CUDA=OFF > "$build/log"
cmake --build "$build" --target conclave --parallel 2 >> "$build/log" || { tail -n 30 "$build/log" >&2; exit 1; }
spent_ms=$(($(date +%s%3N) - start))
"$build/bin/conclave" version
echo "built in $((spent_ms / 1000)) s, limit $limit_s s"
((spent_ms <= limit_s * 1000))
