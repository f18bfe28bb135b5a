#!/usr/bin/env bash
# Products where the library has no kernels whose rows do not depend on each other: as on a processor with AVX2 alone. Kernels of our own
# must keep the same promises there, bf16 included.
set -euo pipefail
: "${CONCLAVE_BIN_DIR:?}"
# No matrix unit either: split products are asked for by the processor's own flags, and hide what is to be seen.
if grep -q amx_bf16 /proc/cpuinfo; then
  echo "products are split here, whatever the library has"
  exit 77
fi
ONEDNN_MAX_CPU_ISA=AVX2 "$CONCLAVE_BIN_DIR/tensor_test" --gtest_filter='*Products*' --gtest_brief=1
