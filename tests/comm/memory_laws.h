// A test-only run of an exchange with memory: steps, refused steps, and its state as a checkpoint would hold it.
#ifndef CONCLAVE_TESTS_COMM_MEMORY_LAWS_H_
#define CONCLAVE_TESTS_COMM_MEMORY_LAWS_H_

#include <google/protobuf/text_format.h>

#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "comm/exchanges.h"
#include "tests/comm/exchange_laws.h"

namespace conclave {

inline ExchangeConfig ParseExchange(const std::string& text) {
  ExchangeConfig config;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &config)) << text;
  return config;
}

// Blocks of one part, of some and of one for each of four workers; an expert of two parts, others of one.
inline ParameterSet LargeParameters() {
  ParameterSet set;
  set.Add({.name = "a", .shape = {5, 1}});
  for (int e = 0; e < kTestExperts; ++e) {
    set.Add(
        {.name = absl::StrFormat("e%d.w", e), .shape = {e == 3 ? 90 : 2, 100}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0});
    set.Add({.name = absl::StrFormat("e%d.b", e), .shape = {3}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0});
  }
  set.Add({.name = "b", .shape = {130, 100}});
  set.Add({.name = "c", .shape = {16461}});
  return set;
}

// By logical name: what the canonical holders would write.
struct SavedState {
  std::map<std::string, std::vector<float>> tensors;
  std::map<std::string, double> scalars;
  bool operator==(const SavedState&) const = default;
};

struct MemoryRun {
  ExchangeConfig config;
  int workers = 4, ranks = 1, expert_axis = 1;
  int first = 0, steps = 4;               // steps first .. first + steps - 1
  bool moving = true;                     // vectors change from step to step
  std::function<bool(int step)> refused;  // the step is put with other vectors, discarded, and made anew
  std::function<bool(int worker, BlockId block)> skip;
  const SavedState* start = nullptr;
  std::function<ParameterSet()> parameters = TestParameters;
  std::vector<int> firsts = {};  // WorkerMap's
  bool invariant = true;         // WORLD_SIZE_INVARIANT
  // Who takes part in a step, equally many in every one; null: all, and the exchange is not told.
  std::function<bool(int step, int worker)> takes_part = {};
};

struct MemoryResult {
  std::vector<Blocks<float>> aggregates;  // by step - first; blocks of all ranks together
  SavedState state;
  std::vector<WireReport> reports;  // by rank: of the last step
};

inline void CollectState(const StateDict& dict, SavedState& state) {
  for (const StateEntry& entry : dict.entries()) {
    if (!entry.canonical) continue;
    const std::span<float> v = entry.data.span<float>();
    EXPECT_TRUE(state.tensors.emplace(entry.name, std::vector<float>(v.begin(), v.end())).second) << entry.name << " has two writers";
  }
  for (const StateScalar& scalar : dict.scalars()) state.scalars[scalar.name] = scalar.get();
}

inline void LoadState(const SavedState& state, StateDict& dict) {
  for (const StateEntry& entry : dict.entries()) {
    const auto it = state.tensors.find(entry.name);
    ASSERT_NE(it, state.tensors.end()) << entry.name;
    std::copy(it->second.begin(), it->second.end(), entry.data.data<float>());
  }
  for (const StateScalar& scalar : dict.scalars()) scalar.set(state.scalars.at(scalar.name));
}

inline absl::Status PutStep(const MemoryRun& run, const ExchangeContext& context, Exchange& exchange, int vectors) {
  const Layout& layout = *context.layout;
  for (int i = static_cast<int>(layout.local_blocks().size()) - 1; i >= 0; --i) {
    const BlockId block = layout.local_blocks()[i];
    const int me = context.world->rank();
    const bool expert = layout.parameters()[block].kind == BlockKind::kExpert;
    const int column = me / run.expert_axis;
    const int first = expert ? context.workers.ColumnFirst(column) : context.workers.First(me);
    const int count = expert ? context.workers.ColumnCount(column) : context.workers.Count(me);
    for (int worker = first; worker < first + count; ++worker) {
      if (run.skip && run.skip(worker, block)) continue;
      if (context.participants != nullptr && context.participants->chosen[worker] == 0) continue;
      std::vector<float> v = WorkerVector<float>(worker, block, layout.parameters()[block].shape.elements(), vectors);
      RETURN_IF_ERROR(exchange.Put({worker}, block, TensorOf(v)));
    }
  }
  return absl::OkStatus();
}

inline MemoryResult RunMemory(const MemoryRun& run) {
  MemoryResult result;
  result.aggregates.resize(run.steps);
  result.reports.resize(run.ranks);
  std::mutex mutex;
  const absl::Status status = RunRanks(run.ranks, [&](Communicator& world) -> absl::Status {
    const ParameterSet set = run.parameters();
    const Layout layout = TestLayout(&set, world.rank(), run.ranks, run.expert_axis);
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> data, world.Split(world.rank() % run.expert_axis, world.rank(), "data"));
    Participants participants{.chosen = std::vector<char>(run.workers)};
    const auto choose = [&](int step) {
      for (int m = 0; m < run.workers && run.takes_part; ++m) participants.chosen[m] = run.takes_part(step, m);
    };
    choose(run.first);
    participants.count = static_cast<int>(std::ranges::count(participants.chosen, 1));
    const ExchangeContext context = {
        .layout = &layout,
        .workers = {.workers = run.workers, .ranks = run.ranks, .expert_axis = run.expert_axis, .firsts = run.firsts},
        .world = &world,
        .data = data.get(),
        .world_size_invariant = run.invariant,
        .bucket_bytes = 2000,
        .seed = 42,
        .participants = run.takes_part ? &participants : nullptr};
    ASSIGN_OR_RETURN(const std::unique_ptr<Exchange> exchange, MakeExchange(run.config, context));
    StateDict dict;
    exchange->Register(dict, "exchange");
    if (run.start != nullptr) LoadState(*run.start, dict);
    for (int step = run.first; step < run.first + run.steps; ++step) {
      choose(step);
      if (run.refused && run.refused(step)) {
        exchange->Begin(static_cast<uint32_t>(step), 1);
        RETURN_IF_ERROR(PutStep(run, context, *exchange, step + 50));
        RETURN_IF_ERROR(exchange->Finish().status());
        exchange->Discard();
      }
      world.ledger()->Take();
      exchange->Begin(static_cast<uint32_t>(step), 0);
      RETURN_IF_ERROR(PutStep(run, context, *exchange, run.moving ? step : 0));
      ASSIGN_OR_RETURN(const Aggregate mean, exchange->Finish());
      exchange->Commit();
      result.reports[world.rank()] = world.ledger()->Take();
      const std::lock_guard lock(mutex);
      for (const BlockId block : layout.local_blocks()) {
        const std::span<float> v = mean->block(block).span<float>();
        std::vector<float>& slot = result.aggregates[step - run.first][block.value];
        const std::vector<float> mine(v.begin(), v.end());
        EXPECT_TRUE(slot.empty() || SameBits(slot, mine)) << "holders of block " << block.value << " differ";
        slot = mine;
      }
    }
    const std::lock_guard lock(mutex);
    CollectState(dict, result.state);
    return absl::OkStatus();
  });
  EXPECT_EQ(status, absl::OkStatus());
  return result;
}

// What went over the wire, by rank, in one exchange of one block of so many elements, with one worker a rank.
inline std::vector<WireReport> ReportsOfOneBlock(const ExchangeConfig& config, int ranks, int64_t elements) {
  const auto one_block = [elements] {
    ParameterSet set;
    set.Add({.name = "x", .shape = {elements}});
    return set;
  };
  return RunMemory({.config = config, .workers = ranks, .ranks = ranks, .steps = 1, .parameters = one_block}).reports;
}

inline double Distance(const Blocks<float>& a, const Blocks<float>& b) {
  double squares = 0;
  for (const auto& [id, v] : a) {
    for (size_t i = 0; i < v.size(); ++i) squares += std::pow(static_cast<double>(v[i]) - b.at(id)[i], 2);
  }
  return std::sqrt(squares);
}

inline double Norm(const Blocks<float>& a) {
  Blocks<float> zero = a;
  for (auto& [id, v] : zero) std::fill(v.begin(), v.end(), 0.0f);
  return Distance(a, zero);
}

inline bool SameBlocks(const Blocks<float>& a, const Blocks<float>& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [id, v] : a) {
    if (!b.contains(id) || !SameBits(v, b.at(id))) return false;
  }
  return true;
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_MEMORY_LAWS_H_
