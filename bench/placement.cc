// Placement solvers against METIS on the chain objective, one thread.
#include <ctime>

#include <algorithm>
#include <chrono>
#include <memory>

#include "bench/benches.h"
#include "bench/metis_partition.h"
#include "parallel/chain_search.h"
#include "parallel/markov_trace.h"
#include "parallel/placement_bound.h"
#include "parallel/placement_solver.h"

namespace conclave {
namespace {

constexpr int kMetisSeeds = 8;

struct Instance {
  std::string name;
  RoutingCounts counts;
};

// Markov chains of 24 layers with 64 experts: expected counts, and counts of 5,000 tokens drawn.
std::vector<Instance> MarkovInstances() {
  std::vector<Instance> instances;
  for (const double sigma : {1.5, 3.0}) {
    const MarkovInstance chain{.sigma = sigma, .tokens = int64_t{1} << 24};
    instances.push_back({absl::StrFormat("chain, sigma %g", sigma), MarkovCounts(chain)});
  }
  instances.push_back({"5000 tokens, sigma 1.5", RoutingCounts::Of(MarkovTrace({.sigma = 1.5}))});
  return instances;
}

double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

absl::StatusOr<BenchResult> BenchInstance(const Instance& instance, int ranks, int64_t effort) {
  const RoutingCounts& counts = instance.counts;
  const PlacementProblem problem{.counts = &counts, .topology = {.ranks = ranks}, .current = {}};
  PlacementConfig config;
  AffinityPlacementConfig* const affinity = config.mutable_affinity();
  if (effort > 0) affinity->set_effort(effort);
  ASSIGN_OR_RETURN(const std::unique_ptr<PlacementSolver> solver, MakePlacementSolver(config));
  const auto start = std::chrono::steady_clock::now();
  const double cpu_start = CpuSeconds();
  ASSIGN_OR_RETURN(const PlacementPlan plan, PlanPlacement(problem, *solver));
  const double cpu = CpuSeconds() - cpu_start;
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  BenchResult result{
      .name = absl::StrFormat("%s, %d ranks", instance.name, ranks), .unit = "plans/s", .work = 1, .seconds = TimingOf({wall})};
  const double total = static_cast<double>(counts.total()), ours = static_cast<double>(plan.crossings.rank);
  const PlacementTable contiguous = ContiguousTable(counts.layers(), counts.experts(), ranks);
  result.facts = {{"cpu_seconds", cpu},
                  {"contiguous", static_cast<double>(CountCrossings(counts, contiguous, problem.topology).rank) / total},
                  {"plan", ours / total},
                  {"lower_bound", static_cast<double>(LowerBound(problem)) / total}};
  if (!HasMetis()) return result;
  int64_t best = counts.total();
  const double metis_start = CpuSeconds();
  for (int seed = 0; seed < kMetisSeeds; ++seed) {
    ASSIGN_OR_RETURN(const PlacementTable table, MetisPartition(problem, seed));
    ChainState state(problem, table);
    PairSwaps(state);
    best = std::min(best, state.cost());
  }
  result.facts.emplace_back("metis", static_cast<double>(best) / total);
  result.facts.emplace_back("metis_cpu_seconds", CpuSeconds() - metis_start);
  result.facts.emplace_back("less_than_metis", 1 - ours / static_cast<double>(best));
  return result;
}

}  // namespace

absl::StatusOr<BenchReport> BenchPlacement(const RoutingTrace* trace, int64_t effort) {
  BenchReport report{.bench = "placement"};
  std::vector<Instance> instances;
  if (trace == nullptr) {
    instances = MarkovInstances();
  } else {
    instances.push_back({"trace", RoutingCounts::Of(*trace)});
  }
  for (const Instance& instance : instances) {
    for (const int ranks : {8, 16, 32}) {
      if (instance.counts.experts() % ranks != 0) continue;
      ASSIGN_OR_RETURN(BenchResult result, BenchInstance(instance, ranks, effort));
      report.results.push_back(std::move(result));
    }
  }
  if (report.results.empty()) return InvalidArgument("bench placement: %d experts fit neither 8, 16 nor 32 ranks", trace->experts());
  return report;
}

}  // namespace conclave
