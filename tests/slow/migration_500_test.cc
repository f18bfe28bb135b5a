// 500 steps with a migration to a random placement every 20: losses, parameters, moments and compression state to the bit.
#include "tests/trainer/migration_run.h"

namespace conclave {
namespace {

TEST(Migration, FiveHundredSteps) {
  ModelRun run = SmallMixture("parallel { numerics: WORLD_SIZE_INVARIANT }", "moe { top_k: 3 }");
  run.steps = 500;
  ExpectMovesChangeNothing(run, 20, {{1, 4}});
  run.config += " optim { first_order { exchange { ef21_sgdm { codec { top_k { fraction: 0.25 } } } } } }";
  ExpectMovesChangeNothing(run, 20, {{1, 2}});
}

}  // namespace
}  // namespace conclave
