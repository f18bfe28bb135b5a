// A small train state, spread over ranks as a real one would be, for tests of checkpoints.
#ifndef CONCLAVE_TESTS_TRAINER_CHECKPOINT_FIXTURE_H_
#define CONCLAVE_TESTS_TRAINER_CHECKPOINT_FIXTURE_H_

#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "comm/loopback.h"
#include "gtest/gtest.h"
#include "trainer/checkpoint_store.h"

namespace conclave {

// Tensors by name, with raw bytes.
using StateBytes = std::map<std::string, std::string>;

// Tensors of all our types on every rank (one canonical writer each), and `experts` tensors that live on one rank each: expert e on rank (e
// + shift) % ranks.
class FakeState {
 public:
  FakeState(int rank, int ranks, int shift = 0, int experts = 6) {
    int writer = 0;
    const auto replicated = [&](const std::string& name, const Shape& shape, DType dtype) {
      Add(name, shape, dtype, writer++ % ranks == rank);
    };
    replicated("model/embedding", {5, 3}, DType::kF32);
    replicated("model/scale", {3}, DType::kBF16);
    replicated("optim/m/embedding", {5, 3}, DType::kF64);
    replicated("optim/empty", {0, 4}, DType::kF32);
    replicated("optim/count", Shape{}, DType::kI64);
    replicated("optim/index", {7}, DType::kI32);
    replicated("data/mask", {11}, DType::kU8);
    for (int e = 0; e < experts; ++e) {
      if ((e + shift) % ranks != rank) continue;
      Add("model/expert." + std::to_string(e), {2, 3}, DType::kF32, true);
      Add("optim/m/expert." + std::to_string(e), {2, 3}, DType::kF32, true);
    }
    dict_.AddScalar("rule/updates", &updates);
    dict_.AddScalar("guard/mean", &mean);
  }

  void Add(const std::string& name, const Shape& shape, DType dtype, bool canonical) {
    memory_.emplace_back(shape, dtype);
    dict_.Add(StateEntry{.name = name, .data = memory_.back().get(), .canonical = canonical});
  }

  void AddScalar(const std::string& name, double* value) { dict_.AddScalar(name, value); }

  // Any bytes, NaNs included, which depend on name and seed alone.
  void Fill(uint64_t seed) {
    for (const StateEntry& entry : dict_.entries()) {
      const auto bytes = entry.data.AsBytes();
      uint64_t x = std::hash<std::string>()(entry.name) + seed;
      for (std::byte& b : bytes) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        b = static_cast<std::byte>(x >> 56);
      }
    }
    updates = static_cast<int64_t>(seed) + 100;
    mean = -0.0 + 1.0 / static_cast<double>(seed + 3);
  }

  const StateDict& dict() const { return dict_; }
  StateBytes Bytes() const {
    StateBytes out;
    for (const StateEntry& entry : dict_.entries()) {
      const auto bytes = entry.data.AsBytes();
      out[entry.name] = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    return out;
  }

  int64_t updates = 0;
  double mean = 0;

 private:
  std::list<OwnedTensor> memory_;
  StateDict dict_;
};

inline SaveRequest RequestOf(const StateDict& dict, int64_t step) {
  SaveRequest request{.dict = &dict};
  request.state.mutable_cursor()->set_step(static_cast<uint64_t>(step));
  request.state.mutable_cursor()->set_samples(static_cast<uint64_t>(step) * 8);
  request.identity.set_resolved_config("name: \"fake\"");
  return request;
}

inline CheckpointConfig KeepAll() {
  CheckpointConfig config;
  config.set_keep_last(1000);
  config.set_keep_best(true);
  return config;
}

// Runs fn on every rank; the status each rank's fn returned.
inline std::vector<absl::Status> OnRanks(int ranks, const std::function<absl::Status(Communicator&)>& fn) {
  std::vector<absl::Status> statuses(static_cast<size_t>(ranks));
  const absl::Status all = RunRanks(ranks, [&](Communicator& world) {
    statuses[static_cast<size_t>(world.rank())] = fn(world);
    return absl::OkStatus();
  });
  EXPECT_EQ(all, absl::OkStatus());
  return statuses;
}

// Opens the folder and saves the state filled with seed = step; every rank's status.
inline std::vector<absl::Status> SaveSteps(const FileSystem& files, int ranks, const std::vector<int64_t>& steps, int shift = 0,
                                           const CheckpointConfig& config = KeepAll()) {
  return OnRanks(ranks, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(files, world, "run/checkpoints", config));
    FakeState state(world.rank(), world.size(), shift);
    for (const int64_t step : steps) {
      state.Fill(static_cast<uint64_t>(step));
      RETURN_IF_ERROR(store->Save(RequestOf(state.dict(), step)));
    }
    return absl::OkStatus();
  });
}

inline void ExpectAllOk(const std::vector<absl::Status>& statuses) {
  for (size_t r = 0; r < statuses.size(); ++r) EXPECT_EQ(statuses[r], absl::OkStatus()) << "rank " << r;
}

// The gathered state that SaveSteps saved at `step`.
inline StateBytes StateAt(int64_t step) {
  FakeState state(0, 1);
  state.Fill(static_cast<uint64_t>(step));
  return state.Bytes();
}

struct Loaded {
  int64_t step = -1;    // -1: nothing to load
  StateBytes gathered;  // of all ranks; replicas must agree
  std::vector<absl::Status> statuses;
};

// Loads the newest on `ranks` ranks, and checks that replicas and scalars agree with the step.
inline Loaded LoadNewestOn(const FileSystem& files, int ranks, int shift = 0) {
  Loaded out;
  std::mutex mutex;
  out.statuses = OnRanks(ranks, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const auto store, CheckpointStore::Open(files, world, "run/checkpoints", KeepAll()));
    FakeState state(world.rank(), world.size(), shift);
    state.Fill(999'999);
    ASSIGN_OR_RETURN(const auto loaded, store->LoadNewest(state.dict()));
    if (!loaded.has_value()) return absl::OkStatus();
    const std::lock_guard lock(mutex);
    out.step = loaded->step;
    for (auto& [name, bytes] : state.Bytes()) {
      const auto [it, is_new] = out.gathered.emplace(name, bytes);
      if (!is_new && it->second != bytes) return Internal("replicas of %s differ", name);
    }
    FakeState expected(world.rank(), world.size(), shift);
    expected.Fill(static_cast<uint64_t>(loaded->step));
    if (state.updates != expected.updates || state.mean != expected.mean) return Internal("scalars differ on rank %d", world.rank());
    return absl::OkStatus();
  });
  return out;
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_CHECKPOINT_FIXTURE_H_
