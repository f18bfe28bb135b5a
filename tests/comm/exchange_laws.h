// A test-only world for exchanges: blocks of awkward sizes, workers spread over a data x expert mesh, and vectors that every rank can
// recompute.
#ifndef CONCLAVE_TESTS_COMM_EXCHANGE_LAWS_H_
#define CONCLAVE_TESTS_COMM_EXCHANGE_LAWS_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <gtest/gtest.h>

#include "comm/exchange.h"
#include "comm/ledger.h"
#include "comm/loopback.h"
#include "comm/reduction_tree.h"
#include "tests/comm/test_vectors.h"

namespace conclave {

inline constexpr int kTestExperts = 8;

// Replicated blocks of 1, 5, 33, 700 elements and `kTestExperts` experts of two blocks (3 and 40), interleaved by id.
inline ParameterSet TestParameters() {
  ParameterSet set;
  set.Add({.name = "a", .shape = {5, 1}});
  for (int e = 0; e < kTestExperts; ++e) {
    set.Add({.name = absl::StrFormat("e%d.w", e), .shape = {8, 5}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0});
    set.Add({.name = absl::StrFormat("e%d.b", e), .shape = {3}, .kind = BlockKind::kExpert, .expert = e, .moe_layer = 0});
  }
  set.Add({.name = "b", .shape = {33}});
  set.Add({.name = "c", .shape = {1}});
  set.Add({.name = "d", .shape = {7, 100}});
  return set;
}

// Experts in blocks of ranks: expert e lives on the ranks whose expert coordinate is e * axis / kTestExperts.
inline Layout TestLayout(const ParameterSet* set, int rank, int ranks, int expert_axis) {
  std::vector<BlockHome> homes;
  for (const BlockSpec& spec : set->blocks()) {
    BlockHome home;
    for (int r = 0; r < ranks; ++r) {
      if (spec.kind == BlockKind::kReplicated || r % expert_axis == spec.expert * expert_axis / kTestExperts) home.owners.push_back(r);
    }
    home.canonical = home.owners[0];
    homes.push_back(home);
  }
  return Layout(set, rank, homes);
}

// step: vectors that change from step to step; 0 for all where they do not.
template <typename T>
std::vector<T> WorkerVector(int worker, BlockId block, int64_t n, int step = 0) {
  return TestVector<T>(worker, n, 100 + static_cast<uint32_t>(block.value) + 100 * static_cast<uint32_t>(step));
}

// By block id.
template <typename T>
using Blocks = std::map<int, std::vector<T>>;

// What each rank ends with.
template <typename T>
using Results = std::vector<Blocks<T>>;

struct ExchangeCase {
  int workers = 8, ranks = 1, expert_axis = 1;
  bool world_size_invariant = true;
  bool folded = false;  // each block comes once, as the sum over all workers that feed the rank
  int64_t bucket_bytes = 4096;
  int steps = 2;
  bool overlap = true;
  int node_ranks = 0;                                   // nodes of so many consecutive ranks, and exchanges in two levels; 0: one node
  std::function<bool(int worker, BlockId block)> skip;  // never put
  std::function<std::unique_ptr<Exchange>(const ExchangeContext&)> make = [](const ExchangeContext& c) { return MakeExactExchange(c); };
  std::function<void(Communicator& world)> after;
};

// Puts all vectors of one step, as backward would: micro-step by micro-step, blocks in descending order. Expert blocks: one worker of every
// rank of the column.
template <typename T>
absl::Status PutAll(const ExchangeCase& c, const ExchangeContext& context, Exchange& exchange) {
  const WorkerMap& map = context.workers;
  const Layout& layout = *context.layout;
  const int me = context.world->rank(), column = me / map.expert_axis;
  const auto put = [&](int worker, BlockId block) -> absl::Status {
    if (c.skip && c.skip(worker, block)) return absl::OkStatus();
    std::vector<T> v = WorkerVector<T>(worker, block, layout.parameters()[block].shape.elements());
    return exchange.Put({worker}, block, TensorOf(v));
  };
  std::vector<std::vector<T>> sums(layout.parameters().size());
  for (int micro = 0; micro < map.MostPerRank(); ++micro) {
    for (int i = static_cast<int>(layout.local_blocks().size()) - 1; i >= 0; --i) {
      const BlockId block = layout.local_blocks()[i];
      const bool expert = layout.parameters()[block].kind == BlockKind::kExpert;
      std::vector<int> sources;
      if (expert) {
        for (int r = column * map.expert_axis; r < (column + 1) * map.expert_axis; ++r) sources.push_back(r);
      } else {
        sources.push_back(me);
      }
      std::vector<T>& sum = sums[block.value];
      sum.resize(layout.parameters()[block].shape.elements());
      for (const int source : sources) {
        if (micro >= map.Count(source)) continue;
        if (c.folded) {
          const std::vector<T> v = WorkerVector<T>(map.First(source) + micro, block, static_cast<int64_t>(sum.size()));
          for (size_t j = 0; j < v.size(); ++j) sum[j] += v[j];
        } else {
          RETURN_IF_ERROR(put(map.First(source) + micro, block));
        }
      }
      if (c.folded && micro + 1 == map.MostPerRank()) RETURN_IF_ERROR(exchange.Put({map.First(me)}, block, TensorOf(sum), true));
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status RunExchangeOn(Communicator& world, const ExchangeCase& c, Blocks<T>& result) {
  const ParameterSet set = TestParameters();
  const Layout layout = TestLayout(&set, world.rank(), c.ranks, c.expert_axis);
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> data, world.Split(world.rank() % c.expert_axis, world.rank(), "data"));
  std::unique_ptr<Communicator> inside, between;
  if (c.node_ranks > 0) {
    ASSIGN_OR_RETURN(inside, world.Split(world.rank() / c.node_ranks, world.rank(), "inside"));
    ASSIGN_OR_RETURN(between, world.Split(world.rank() % c.node_ranks, world.rank(), "between"));
  }
  const ExchangeContext context = {.layout = &layout,
                                   .workers = {.workers = c.workers, .ranks = c.ranks, .expert_axis = c.expert_axis},
                                   .world = &world,
                                   .data = data.get(),
                                   .dtype = DTypeOf<T>(),
                                   .world_size_invariant = c.world_size_invariant,
                                   .bucket_bytes = c.bucket_bytes,
                                   .seed = 42,
                                   .overlap = c.overlap,
                                   .inside = inside.get(),
                                   .between = between.get()};
  const std::unique_ptr<Exchange> exchange = c.make(context);
  world.ledger()->Take();
  for (int step = 0; step < c.steps; ++step) {
    exchange->Begin(static_cast<uint32_t>(step), 0);
    RETURN_IF_ERROR(PutAll<T>(c, context, *exchange));
    ASSIGN_OR_RETURN(const Aggregate mean, exchange->Finish());
    exchange->Commit();
    for (const BlockId block : layout.local_blocks()) {
      const std::span<T> v = mean->block(block).template span<T>();
      result[block.value].assign(v.begin(), v.end());
    }
  }
  if (c.after) c.after(world);
  return absl::OkStatus();
}

template <typename T>
Results<T> RunExchange(const ExchangeCase& c) {
  Results<T> results(c.ranks);
  std::vector<int> nodes;
  for (int r = 0; c.node_ranks > 0 && r < c.ranks; ++r) nodes.push_back(r / c.node_ranks);
  EXPECT_EQ(RunRanks(c.ranks, [&](Communicator& world) { return RunExchangeOn<T>(world, c, results[world.rank()]); }, {.nodes = nodes}),
            absl::OkStatus());
  return results;
}

// The mean by the one-process tree; `skip` as in the case.
template <typename T>
std::vector<T> TreeMean(const ExchangeCase& c, BlockId block, int64_t n) {
  std::vector<std::vector<T>> leaves;
  std::vector<Partial> partials;
  for (int m = 0; m < c.workers; ++m) {
    leaves.push_back(c.skip && c.skip(m, block) ? std::vector<T>(n) : WorkerVector<T>(m, block, n));
    partials.push_back({{m, m + 1}, reinterpret_cast<std::byte*>(leaves.back().data())});
  }
  MergeSiblings(partials, c.workers, DTypeOf<T>(), n);
  std::vector<T> mean = leaves[0];
  for (T& x : mean) x *= static_cast<T>(1.0 / c.workers);
  return mean;
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_EXCHANGE_LAWS_H_
