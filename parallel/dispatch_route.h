// What the routes of DispatchConfig do, by kind. None of them is about AUTO.
#ifndef CONCLAVE_PARALLEL_DISPATCH_ROUTE_H_
#define CONCLAVE_PARALLEL_DISPATCH_ROUTE_H_

#include "proto/parallel.pb.h"

namespace conclave {

// Rows take two hops, one inside a node and one between nodes.
inline bool InTwoLevels(DispatchConfig::Route route) {
  return route == DispatchConfig::HIERARCHICAL || route == DispatchConfig::DEDUPLICATED_HIERARCHICAL;
}

// A token goes once to each rank (in two levels: node), whatever the number of its experts there.
inline bool SendsOnce(DispatchConfig::Route route) {
  return route == DispatchConfig::DEDUPLICATED || route == DispatchConfig::DEDUPLICATED_HIERARCHICAL;
}

inline DispatchConfig::Route RouteOf(bool two_levels, bool once) {
  if (two_levels) return once ? DispatchConfig::DEDUPLICATED_HIERARCHICAL : DispatchConfig::HIERARCHICAL;
  return once ? DispatchConfig::DEDUPLICATED : DispatchConfig::FLAT;
}

inline constexpr int kMostFoldedSlots = 64;  // of a token: what copies can name on the wire

// Whether results of a token's first slots come home as their sum where they are in one place (DispatchConfig.fold).
inline bool FoldsHome(const DispatchConfig& config, DispatchConfig::Route route, int top_k, bool pre_reduce) {
  return config.fold() && SendsOnce(route) && !pre_reduce && top_k <= kMostFoldedSlots &&
         config.combine_forward() == DispatchConfig::EXACT && config.dispatch_backward() == DispatchConfig::EXACT;
}

// The route whose rows the results of experts are on their way home: one a slot, or as many as came where they are summed on the way.
inline DispatchConfig::Route RouteHome(DispatchConfig::Route route, bool pre_reduce) {
  return pre_reduce ? route : RouteOf(InTwoLevels(route), /*once=*/false);
}

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_DISPATCH_ROUTE_H_
