#include "launch/affinity_table.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>

namespace conclave {
namespace {

// Every expert's most likely successors, as many as a rank holds, take so much of what follows it.
double ReachOf(const RoutingCounts& counts, int ranks) {
  const int experts = counts.experts(), held = experts / ranks;
  int64_t reached = 0, all = 0;
  std::vector<int64_t> next(experts);
  for (int j = 0; j + 1 < counts.layers(); ++j) {
    for (int e = 0; e < experts; ++e) {
      const auto row = counts.transitions(j).subspan(static_cast<size_t>(e) * experts, experts);
      std::partial_sort_copy(row.begin(), row.end(), next.begin(), next.end(), std::greater<>());
      reached += std::accumulate(next.begin(), next.begin() + held, int64_t{0});
      all += std::accumulate(next.begin(), next.end(), int64_t{0});
    }
  }
  return all > 0 ? static_cast<double>(reached) / static_cast<double>(all) : 0;
}

double KeptShare(const RoutingCounts& counts, int64_t tokens, const PlacementTable& table, const Topology& topology) {
  const auto changes = static_cast<double>(tokens * (counts.layers() - 1));
  return 1 - static_cast<double>(CountCrossings(counts, table, topology).rank) / changes;
}

}  // namespace

absl::StatusOr<AffinityLine> MeasureAffinity(const RoutingTrace& trace, int ranks, const PlacementSolver& solver) {
  if (trace.tokens() < 2 || trace.layers() < 2) {
    return InvalidArgument("affinity: %d tokens of %d layers; it takes two of each at least", trace.tokens(), trace.layers());
  }
  const RoutingTrace seen = trace.Every(2, 0), unseen = trace.Every(2, 1);
  const RoutingCounts all = RoutingCounts::Of(trace), plan_on = RoutingCounts::Of(seen);
  const Topology topology{.ranks = ranks};
  ASSIGN_OR_RETURN(const PlacementPlan plan, PlanPlacement({.counts = &plan_on, .topology = topology, .current = {}}, solver));
  return AffinityLine{.step = trace.header().step,
                      .experts = trace.experts(),
                      .layers = trace.layers(),
                      .ranks = ranks,
                      .tokens = trace.tokens(),
                      .affinity = all.MeanLargestAffinity(),
                      .reach = ReachOf(all, ranks),
                      .contiguous = KeptShare(all, trace.tokens(), ContiguousTable(trace.layers(), trace.experts(), ranks), topology),
                      .planned = KeptShare(plan_on, seen.tokens(), plan.table, topology),
                      .unseen = KeptShare(RoutingCounts::Of(unseen), unseen.tokens(), plan.table, topology)};
}

void PrintAffinity(const std::vector<AffinityLine>& lines, bool json) {
  if (!json) {
    std::printf("%8s %8s %6s %9s %8s   %s\n", "step", "experts", "ranks", "affinity", "reach",
                "kept on a rank: contiguous  planned  unseen  fewer hops");
  }
  for (const AffinityLine& line : lines) {
    const char* const format = json ? "{\"step\":%lld,\"experts\":%d,\"ranks\":%d,\"affinity\":%.6g,\"reach\":%.6g,\"contiguous\":%.6g,"
                                      "\"planned\":%.6g,\"unseen\":%.6g,"
                                      "\"fewer_hops\":%.6g}\n"
                                    : "%8lld %8d %6d %9.3f %8.3f   %26.3f %8.3f %7.3f %11.3f\n";
    std::printf(format, static_cast<long long>(line.step), line.experts, line.ranks, line.affinity, line.reach, line.contiguous,
                line.planned, line.unseen, line.fewer_hops());
  }
}

}  // namespace conclave
