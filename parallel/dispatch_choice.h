// Which route tokens should take: reckoned from the measured rates of the links.
#ifndef CONCLAVE_PARALLEL_DISPATCH_CHOICE_H_
#define CONCLAVE_PARALLEL_DISPATCH_CHOICE_H_

#include <array>
#include <string>

#include "base/status.h"
#include "parallel/dispatch_grid.h"

namespace conclave {

// Of one message between two ranks: seconds = latency + bytes / rate.
struct LinkRates {
  double latency_seconds = 0;
  double bytes_per_second = 1;
};

// A layer's exchange as AUTO sees it.
struct DispatchLoad {
  int nodes = 1, ranks_per_node = 1;
  bool two_levels = true;  // false: nodes hold unequal numbers of ranks, and all ranks count as one node
  int64_t tokens = 0;      // of one rank
  int experts = 1, top_k = 1;
  int64_t row_bytes = 0;
  bool pre_reduce = false;
  const DispatchConfig* config = nullptr;  // whether results are folded on their way home; null: they are not
  LinkRates inside, between;               // of a node
};

// Rows that leave a rank for others of its node and for other nodes, and messages, under uniform routing; one way.
struct RouteTraffic {
  double inside_rows = 0, between_rows = 0;
  int inside_messages = 0, between_messages = 0;
};
RouteTraffic ExpectedTraffic(const DispatchLoad& load, DispatchConfig::Route route);
// The same of the results on their way home.
RouteTraffic ExpectedReturn(const DispatchLoad& load, DispatchConfig::Route route);

// Seconds of a layer's four exchanges, forward and backward.
double ExpectedSeconds(const DispatchLoad& load, DispatchConfig::Route route);

// The route of least expected time (equal: the earlier kind; without two levels: of one), and a line that says why.
struct RouteChoice {
  DispatchConfig::Route route = DispatchConfig::FLAT;
  std::string reason;
};
RouteChoice ChooseRoute(const DispatchLoad& load);

// Whether every node holds as many ranks of the expert axis, in every column of the mesh. Collective on mesh.control().
absl::StatusOr<bool> NodesAreEven(const Mesh& mesh, int64_t ranks_per_node);

// Measures both levels: the fastest of a few exchanges of short and of long messages; the slowest rank's on every rank. Collective. Cost:
// about 10 exchanges of 64 KiB a pair. A level of one rank costs nothing.
// grid: null where nodes are uneven; then all links of the axis are measured as one level.
absl::Status MeasureLinks(const DispatchGrid* grid, Communicator& axis, DispatchLoad* load);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_DISPATCH_CHOICE_H_
