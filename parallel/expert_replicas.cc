#include "parallel/expert_replicas.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "parallel/expert_placement.h"

namespace conclave {
namespace {

// Replicas of `load` in slot order: which item each of `slots` slots holds, and into how many parts every item is split.
struct Replication {
  std::vector<int> item;
  std::vector<int> replicas;
};

Replication Replicate(std::span<const double> load, int slots) {
  const int items = static_cast<int>(load.size());
  Replication result{.item = std::vector<int>(slots), .replicas = std::vector<int>(items, 1)};
  std::iota(result.item.begin(), result.item.begin() + items, 0);
  for (int slot = items; slot < slots; ++slot) {
    int hottest = 0;
    for (int i = 1; i < items; ++i) {
      if (load[i] / result.replicas[i] > load[hottest] / result.replicas[hottest]) hottest = i;
    }
    result.item[slot] = hottest;
    ++result.replicas[hottest];
  }
  return result;
}

absl::Status CheckShape(int experts, const ReplicaShape& shape) {
  if (shape.nodes < 1 || shape.ranks < 1 || shape.ranks % shape.nodes != 0)
    return InvalidArgument("replicas: %d ranks cannot be split evenly over %d nodes", shape.ranks, shape.nodes);
  if (shape.slots < experts) return InvalidArgument("replicas: %d slots for %d experts; every expert needs one", shape.slots, experts);
  if (shape.slots % shape.ranks != 0)
    return InvalidArgument("replicas: %d slots cannot be split evenly over %d ranks", shape.slots, shape.ranks);
  if (shape.groups < 1 || experts % shape.groups != 0)
    return InvalidArgument("replicas: %d experts cannot be split evenly into %d groups", experts, shape.groups);
  return absl::OkStatus();
}

// Experts in the order of the nodes that hold them: by node, by place of the group in its node, by id.
std::vector<int> NodeOrder(std::span<const double> load, int groups, int nodes) {
  const int experts = static_cast<int>(load.size()), group_size = experts / groups, groups_per_node = groups / nodes;
  std::vector<double> group_load(groups);
  for (int e = 0; e < experts; ++e) group_load[e / group_size] += load[e];
  const Packing packing = PackEvenly(group_load, nodes);
  std::vector<int> order(experts);
  for (int e = 0; e < experts; ++e) {
    const int g = e / group_size;
    order[(packing.pack[g] * groups_per_node + packing.place[g]) * group_size + e % group_size] = e;
  }
  return order;
}

}  // namespace

Packing PackEvenly(std::span<const double> weights, int packs) {
  const int items = static_cast<int>(weights.size());
  CHECK(packs >= 1 && items % packs == 0);
  const int room = items / packs;
  Packing result{.pack = std::vector<int>(items), .place = std::vector<int>(items, 0)};
  if (room == 1) {
    std::iota(result.pack.begin(), result.pack.end(), 0);
    return result;
  }
  std::vector<int> order(items);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weights[a] > weights[b]; });
  std::vector<double> load(packs);
  std::vector<int> count(packs);
  for (const int item : order) {
    int lightest = -1;
    for (int p = 0; p < packs; ++p) {
      if (count[p] < room && (lightest < 0 || load[p] < load[lightest])) lightest = p;
    }
    result.pack[item] = lightest;
    result.place[item] = count[lightest]++;
    load[lightest] += weights[item];
  }
  return result;
}

double ReplicaTable::MaxRankLoad(std::span<const double> load, int ranks) const {
  const size_t per_rank = expert_of.size() / ranks;
  std::vector<double> sum(ranks);
  for (size_t s = 0; s < expert_of.size(); ++s)
    sum[s / per_rank] += load[expert_of[s]] / static_cast<double>(slots_of[expert_of[s]].size());
  return *std::max_element(sum.begin(), sum.end());
}

absl::StatusOr<ReplicaTable> PlanReplicas(std::span<const double> load, const ReplicaShape& shape) {
  const int experts = static_cast<int>(load.size());
  if (experts < 1) return InvalidArgument("replicas: no experts");
  RETURN_IF_ERROR(CheckShape(experts, shape));
  const bool grouped = shape.groups % shape.nodes == 0;
  const int nodes = grouped ? shape.nodes : 1;
  const std::vector<int> order = NodeOrder(load, grouped ? shape.groups : 1, nodes);
  const int node_experts = experts / nodes, node_slots = shape.slots / nodes, node_ranks = shape.ranks / nodes;
  if (node_slots < node_experts) return InvalidArgument("replicas: %d slots on a node for its %d experts", node_slots, node_experts);
  ReplicaTable table{.expert_of = std::vector<int>(shape.slots), .slots_of = std::vector<std::vector<int>>(experts)};
  for (int n = 0; n < nodes; ++n) {
    const std::span<const int> here = std::span(order).subspan(static_cast<size_t>(n) * node_experts, node_experts);
    std::vector<double> node_load, slot_load;
    for (const int e : here) node_load.push_back(load[e]);
    const Replication replication = Replicate(node_load, node_slots);
    for (const int item : replication.item) slot_load.push_back(node_load[item] / replication.replicas[item]);
    const Packing packing = PackEvenly(slot_load, node_ranks);
    const int rank_slots = node_slots / node_ranks;
    for (int s = 0; s < node_slots; ++s)
      table.expert_of[n * node_slots + packing.pack[s] * rank_slots + packing.place[s]] = here[replication.item[s]];
  }
  for (int s = 0; s < shape.slots; ++s) table.slots_of[table.expert_of[s]].push_back(s);
  return table;
}

std::vector<std::vector<int>> PlanCopiesOfLayer(const CopyRequest& request) {
  constexpr double kLeastGain = 1e-9;  // of the sum of squares
  const int experts = static_cast<int>(request.load.size());
  std::vector<std::vector<int>> hosts(experts);
  std::vector<std::vector<double>> shares;
  std::vector<double> load(request.ranks);
  for (int e = 0; e < experts; ++e) {
    hosts[e] = {request.owners[e]};
    shares.push_back(HostShares(hosts[e], request.ranks, request.node_of));
    for (int r = 0; r < request.ranks; ++r) load[r] += request.load[e] * shares[e][r];
  }
  std::vector<int> room(request.ranks, request.per_rank);
  struct Best {
    double gain = 0;
    int expert = -1, rank = 0;
    std::vector<double> shares;
  };
  while (true) {
    Best best;
    const double squares = std::inner_product(load.begin(), load.end(), load.begin(), 0.0);
    for (int e = 0; e < experts; ++e) {
      for (int rank = 0; rank < request.ranks; ++rank) {
        if (room[rank] == 0 || std::ranges::find(hosts[e], rank) != hosts[e].end()) continue;
        std::vector<int> wider = hosts[e];
        wider.insert(std::ranges::upper_bound(wider, rank), rank);
        std::vector<double> next = HostShares(wider, request.ranks, request.node_of);
        double gain = squares;
        for (int r = 0; r < request.ranks; ++r) {
          const double changed = load[r] + request.load[e] * (next[r] - shares[e][r]);
          gain -= changed * changed;
        }
        if (gain > best.gain) best = {gain, e, rank, std::move(next)};
      }
    }
    if (best.gain <= kLeastGain * squares) break;
    for (int r = 0; r < request.ranks; ++r) load[r] += request.load[best.expert] * (best.shares[r] - shares[best.expert][r]);
    shares[best.expert] = best.shares;
    hosts[best.expert].insert(std::ranges::upper_bound(hosts[best.expert], best.rank), best.rank);
    --room[best.rank];
  }
  for (int e = 0; e < experts; ++e) std::erase(hosts[e], request.owners[e]);
  return hosts;
}

}  // namespace conclave
