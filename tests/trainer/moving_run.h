// A whole run that records its routing and moves its experts, on ranks as threads.
#ifndef CONCLAVE_TESTS_TRAINER_MOVING_RUN_H_
#define CONCLAVE_TESTS_TRAINER_MOVING_RUN_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "trainer/trainer.h"

namespace conclave {

extern const char kMovingConfig[];
inline const std::vector<std::string> kMoves = {"parallel.rebalance.every=2", "parallel.rebalance.after_step=1",
                                                "parallel.rebalance.hysteresis=0", "parallel.rebalance.placement.random.seed=4"};

// A folder of its own: token shards are mapped, so the files must be real.
class MovingFolder {
 public:
  MovingFolder();
  // In the process of a death test: the folder of that name of the test that started it.
  explicit MovingFolder(const std::string& name);
  ~MovingFolder();
  std::string At(const std::string& name) const { return path_ + "/" + name; }
  std::string Read(const std::string& name) const { return *RealFileSystem().ReadAll(At(name)); }

 private:
  std::string path_;
};

struct MovingRun {
  const MovingFolder* files = nullptr;
  std::vector<std::string> overrides;
  int ranks = 2;
  bool resume = false;
  int64_t stop_after = 0;
  std::vector<int> nodes;  // by rank; empty: one
  static constexpr int kDead = 9;
  int dies_after_layers = 0;  // the process ends with kDead once rank 1 has exchanged the experts of so many layers; 0: it lives
};

std::vector<std::string> Joined(std::vector<std::string> a, const std::vector<std::string>& b);

// The averaged weights at the end, by block name, and the state fields of the metrics.
absl::StatusOr<std::pair<std::map<std::string, std::string>, std::string>> TrainMoving(const MovingRun& run);

// Where the experts are by a checkpoint, layer by layer.
std::vector<int> SavedCoordinates(const MovingFolder& files, int step);

// A number of the metrics line of `step`; -1: it has none.
double MetricOf(const std::string& metrics, int step, const std::string& name);

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_MOVING_RUN_H_
