#!/usr/bin/env bash
# Logits of small random models of every family: ours of their files, and theirs of ours, against `transformers` to 1e-4 in f32.
# Needs a Python with torch and transformers (from PyPI, in a virtual environment outside the tree): its path in INTEROP_PYTHON, or python3.
set -euo pipefail
python="${INTEROP_PYTHON:-python3}"
if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
  echo "skipped: '$python' has no torch and transformers; name one that has in INTEROP_PYTHON"
  exit 77
fi
bin="${CONCLAVE_BIN_DIR:-build/dev/bin}"
work="$(mktemp -d "${TEST_TMPDIR:-/tmp}/hf_logits.XXXXXX")"
trap 'rm -rf "$work"' EXIT
"$python" tests/interop/hf_logits.py "$bin/hf_logits_program" "$work"
