#!/usr/bin/env bash
# Every scheme over every exchange, stopped and resumed at every step; the quick tests take one random step a pair.
set -euo pipefail
"${CONCLAVE_BIN_DIR:?the folder of the built programs}/optim_test" --gtest_also_run_disabled_tests \
  --gtest_filter='ResumeTest.DISABLED_EveryPairAtEveryStep'
