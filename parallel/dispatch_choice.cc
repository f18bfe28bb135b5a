#include "parallel/dispatch_choice.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/clock.h"
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

// Seconds of one exchange of `bytes` to every other member.
absl::StatusOr<double> TimeExchange(Communicator& group, int64_t bytes) {
  const int members = group.size();
  std::vector<std::byte> send(bytes * members), recv(bytes * members);
  std::vector<int64_t> sizes(members, bytes), offsets(members);
  for (int g = 0; g < members; ++g) offsets[g] = g * bytes;
  const Shape shape{bytes * members};
  const double began = RealClock().Seconds();
  RETURN_IF_ERROR(group.AllToAllV({.kind = CollectiveKind::kAllToAllV,
                                   .label = "link probe",
                                   .send = Tensor(send.data(), shape, DType::kU8),
                                   .recv = Tensor(recv.data(), shape, DType::kU8),
                                   .send_bytes = sizes,
                                   .send_offsets = offsets,
                                   .recv_bytes = sizes,
                                   .recv_offsets = offsets}));
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

double ExpectedSeconds(const DispatchLoad& load, DispatchConfig::Route route) {
  const auto seconds = [&](const RouteTraffic& t) {
    return t.inside_messages * load.inside.latency_seconds + t.between_messages * load.between.latency_seconds +
           static_cast<double>(load.row_bytes) *
               (t.inside_rows / load.inside.bytes_per_second + t.between_rows / load.between.bytes_per_second);
  };
  return 2 * (seconds(ExpectedTraffic(load, route)) + seconds(ExpectedTraffic(load, RouteHome(route, load.pre_reduce))));
}

RouteChoice ChooseRoute(const DispatchLoad& load) {
  RouteChoice choice;
  double least = std::numeric_limits<double>::infinity();
  std::string table;
  for (const DispatchConfig::Route route : kRoutes) {
    const double seconds = ExpectedSeconds(load, route);
    absl::StrAppendFormat(&table, "%s%s %.3g ms", table.empty() ? "" : ", ", DispatchConfig::Route_Name(route), seconds * 1e3);
    if (seconds < least) choice.route = route, least = seconds;
  }
  choice.reason = absl::StrFormat(
      "parallel.dispatch.route AUTO: %s (a layer's exchanges: %s; links inside a node %.3g us + %.3g MB/s, between %.3g us + %.3g MB/s)",
      DispatchConfig::Route_Name(choice.route), table, load.inside.latency_seconds * 1e6, load.inside.bytes_per_second / 1e6,
      load.between.latency_seconds * 1e6, load.between.bytes_per_second / 1e6);
  return choice;
}

absl::Status MeasureLinks(const DispatchGrid& grid, Communicator& axis, DispatchLoad* load) {
  load->nodes = grid.nodes();
  load->ranks_per_node = grid.ranks_per_node();
  if (grid.ranks_per_node() > 1) {
    ASSIGN_OR_RETURN(load->inside, Measure(grid.inside(), axis));
  }
  if (grid.nodes() > 1) {
    ASSIGN_OR_RETURN(load->between, Measure(grid.between(), axis));
  }
  return absl::OkStatus();
}

}  // namespace conclave
