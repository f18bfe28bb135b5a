#include "parallel/dispatch_choice.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "comm/part_table.h"
#include "parallel/dispatch_route.h"

namespace conclave {
namespace {

constexpr std::array kRoutes = {DispatchConfig::FLAT, DispatchConfig::DEDUPLICATED, DispatchConfig::HIERARCHICAL,
                                DispatchConfig::DEDUPLICATED_HIERARCHICAL};

// Chance that a token with k of E experts has one among `held` of them: 1 - C(E - held, k) / C(E, k).
double ChanceOfAny(int experts, int held, int k) {
  double none = 1;
  for (int i = 0; i < k; ++i) none *= std::max(0.0, static_cast<double>(experts - held - i) / (experts - i));
  return 1 - none;
}

// Of the first slots of such a token that are all in one place which holds `held` experts: how many there are beside the first.
double FoldedSlots(int experts, int held, int k) {
  double sum = 0, all_there = 1;
  for (int i = 1; i < k; ++i) {
    all_there *= std::max(0.0, static_cast<double>(held - i) / (experts - i));
    sum += all_there;
  }
  return sum;
}

// Seconds of one exchange of `bytes` to every other member.
absl::StatusOr<double> TimeExchange(Communicator& group, int64_t bytes) {
  const int members = group.size();
  std::vector<std::byte> send(bytes * members), recv(bytes * members);
  std::vector<int64_t> sizes(4 * members, bytes);
  const PartTable parts = PartTable::Over(sizes);
  const Shape shape{bytes * members};
  const double began = RealClock().Seconds();
  RETURN_IF_ERROR(
      group.AllToAllV(parts.Exchange("link probe", Tensor(send.data(), shape, DType::kU8), Tensor(recv.data(), shape, DType::kU8))));
  return RealClock().Seconds() - began;
}

absl::StatusOr<LinkRates> Measure(Communicator& group, Communicator& axis) {
  constexpr int kRounds = 5;
  constexpr int64_t kShort = 8, kLong = 64 << 10;
  double fastest[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  for (int round = 0; round < kRounds; ++round) {
    for (const int which : {0, 1}) {
      ASSIGN_OR_RETURN(const double seconds, TimeExchange(group, which == 0 ? kShort : kLong));
      fastest[which] = std::min(fastest[which], seconds);
    }
  }
  RETURN_IF_ERROR(axis.AllReduce("link rates", Tensor(fastest, {2}, DType::kF64), ReduceOp::kMax));
  const int others = std::max(group.size() - 1, 1);
  const double latency = fastest[0] / others, transfer = std::max(fastest[1] - fastest[0], 1e-9) / others;
  return LinkRates{latency, static_cast<double>(kLong - kShort) / transfer};
}

}  // namespace

RouteTraffic ExpectedTraffic(const DispatchLoad& load, DispatchConfig::Route route) {
  const int n = load.nodes, q = load.ranks_per_node, ranks = n * q;
  const double tokens = static_cast<double>(load.tokens), copies = tokens * load.top_k;
  const double to_a_rank = ChanceOfAny(load.experts, load.experts / ranks, load.top_k);
  const double to_a_node = ChanceOfAny(load.experts, load.experts / n, load.top_k);
  switch (route) {
    case DispatchConfig::DEDUPLICATED:
      return {tokens * (q - 1) * to_a_rank, tokens * (ranks - q) * to_a_rank, q - 1, ranks - q};
    case DispatchConfig::HIERARCHICAL:
      return {copies * (q - 1) / q, copies * (n - 1) / n, q - 1, n - 1};
    case DispatchConfig::DEDUPLICATED_HIERARCHICAL:
      return {tokens * n * (q - 1) * to_a_rank, tokens * (n - 1) * to_a_node, q - 1, n - 1};
    default:
      return {copies * (q - 1) / ranks, copies * (ranks - q) / ranks, q - 1, ranks - q};
  }
}

RouteTraffic ExpectedReturn(const DispatchLoad& load, DispatchConfig::Route route) {
  RouteTraffic traffic = ExpectedTraffic(load, RouteHome(route, load.pre_reduce));
  if (load.config == nullptr || !FoldsHome(*load.config, route, load.top_k, load.pre_reduce)) return traffic;
  const int held = load.experts / (InTwoLevels(route) ? load.nodes : load.nodes * load.ranks_per_node);
  const double comes = 1 - FoldedSlots(load.experts, held, load.top_k) / load.top_k;  // of all rows
  traffic.between_rows *= comes;
  if (!InTwoLevels(route)) traffic.inside_rows *= comes;
  return traffic;
}

double ExpectedSeconds(const DispatchLoad& load, DispatchConfig::Route route) {
  const auto seconds = [&](const RouteTraffic& t) {
    return t.inside_messages * load.inside.latency_seconds + t.between_messages * load.between.latency_seconds +
           static_cast<double>(load.row_bytes) *
               (t.inside_rows / load.inside.bytes_per_second + t.between_rows / load.between.bytes_per_second);
  };
  return 2 * (seconds(ExpectedTraffic(load, route)) + seconds(ExpectedReturn(load, route)));
}

RouteChoice ChooseRoute(const DispatchLoad& load) {
  RouteChoice choice;
  double least = std::numeric_limits<double>::infinity();
  std::string table;
  for (const DispatchConfig::Route route : kRoutes) {
    if (InTwoLevels(route) && !load.two_levels) continue;
    const double seconds = ExpectedSeconds(load, route);
    absl::StrAppendFormat(&table, "%s%s %.3g ms", table.empty() ? "" : ", ", DispatchConfig::Route_Name(route), seconds * 1e3);
    if (seconds < least) choice.route = route, least = seconds;
  }
  if (!load.two_levels) {
    choice.reason = absl::StrFormat(
        "parallel.dispatch.route AUTO: %s (a layer's exchanges: %s; links %.3g us + %.3g MB/s; nodes hold unequal numbers of ranks, so "
        "routes in two levels are left out)",
        DispatchConfig::Route_Name(choice.route), table, load.inside.latency_seconds * 1e6, load.inside.bytes_per_second / 1e6);
    return choice;
  }
  choice.reason = absl::StrFormat(
      "parallel.dispatch.route AUTO: %s (a layer's exchanges: %s; links inside a node %.3g us + %.3g MB/s, between %.3g us + %.3g MB/s)",
      DispatchConfig::Route_Name(choice.route), table, load.inside.latency_seconds * 1e6, load.inside.bytes_per_second / 1e6,
      load.between.latency_seconds * 1e6, load.between.bytes_per_second / 1e6);
  return choice;
}

absl::StatusOr<bool> NodesAreEven(const Mesh& mesh, int64_t ranks_per_node) {
  const std::vector<std::vector<int>> at = CoordinatesByNode(mesh, ranks_per_node);
  int64_t uneven = std::ranges::any_of(at, [&](const std::vector<int>& node) { return node.size() != at[0].size(); }) ? 1 : 0;
  RETURN_IF_ERROR(mesh.control().AllReduce("uneven nodes", Tensor(&uneven, {1}, DType::kI64), ReduceOp::kMax));
  return uneven == 0;
}

absl::Status MeasureLinks(const DispatchGrid* grid, Communicator& axis, DispatchLoad* load) {
  load->two_levels = grid != nullptr;
  load->nodes = grid != nullptr ? grid->nodes() : 1;
  load->ranks_per_node = grid != nullptr ? grid->ranks_per_node() : axis.size();
  if (load->ranks_per_node > 1) {
    ASSIGN_OR_RETURN(load->inside, Measure(grid != nullptr ? grid->inside() : axis, axis));
  }
  if (load->nodes > 1) {
    ASSIGN_OR_RETURN(load->between, Measure(grid->between(), axis));
  }
  return absl::OkStatus();
}

}  // namespace conclave
