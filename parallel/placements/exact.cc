// The optimum of the chain objective for any number of layers: dynamic programming over the balanced partitions of one layer. Renaming
// ranks within the topology changes no cost, so the least cost of a prefix is needed for one partition of each class alone.
// States: E! / (E/P)!^P, 70 for 8 experts on 2 ranks, 2,520 on 4. Cost: classes * states * (L - 1) sums of two table entries.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "parallel/balanced_partitions.h"
#include "parallel/placement_solver.h"

namespace conclave {
namespace {

constexpr int64_t kMostStates = 50'000, kMostHalf = 1 << 16;
constexpr double kMostWork = 4e9;
constexpr int kMostRanks = 8;

class StateSpace {
 public:
  // What the inner loop reads of a state. Its halves index tables of partial sums.
  struct State {
    int low = 0, high = 0;  // base-P numbers made of the ranks of the first E/2 and of the other experts
    int leader = 0;         // its class, as an index of leaders()
    int renaming = 0;       // gives this state when applied to its leader
  };

  StateSpace(int experts, const Topology& topology) : half_(experts / 2), ranks_(topology.ranks) {
    std::vector<int> row(experts);
    for (int e = 0; e < experts; ++e) row[e] = e / (experts / ranks_);
    do {
      index_[row] = static_cast<int>(rows_.size());
      rows_.push_back(row);
      states_.push_back({.low = Code(row, 0, half_), .high = Code(row, half_, experts)});
    } while (std::next_permutation(row.begin(), row.end()));
    MakeRenamings(topology);
    MakeClasses();
  }

  const std::vector<State>& states() const { return states_; }
  const std::vector<int>& row(int state) const { return rows_[state]; }
  const std::vector<int>& leaders() const { return leaders_; }
  int half() const { return half_; }

  int Renamed(int state, int renaming) const {
    std::vector<int> row = rows_[state];
    for (int& rank : row) rank = renamings_[renaming][rank];
    return index_.at(row);
  }

  // For every value of a half (experts first..last-1): the sum of its cost[expert, rank].
  std::vector<int64_t> HalfSums(const std::vector<int64_t>& cost, int first, int last) const {
    std::vector<int64_t> sums{0}, next;
    for (int e = first; e < last; ++e) {
      next.clear();
      for (int p = 0; p < ranks_; ++p) {
        for (const int64_t sum : sums) next.push_back(sum + cost[e * ranks_ + p]);
      }
      sums.swap(next);
    }
    return sums;
  }

 private:
  // The first expert's rank is the lowest digit.
  int Code(const std::vector<int>& row, int first, int last) const {
    int code = 0;
    for (int e = last; e-- > first;) code = code * ranks_ + row[e];
    return code;
  }

  void MakeRenamings(const Topology& topology) {
    std::vector<int> to(ranks_);
    std::iota(to.begin(), to.end(), 0);
    do {
      bool keeps = true;
      for (int a = 0; a < ranks_; ++a) {
        for (int b = 0; b < a; ++b) {
          keeps &= (topology.NodeOf(a) == topology.NodeOf(b)) == (topology.NodeOf(to[a]) == topology.NodeOf(to[b]));
        }
      }
      if (keeps) renamings_.push_back(to);
    } while (std::next_permutation(to.begin(), to.end()));
  }

  void MakeClasses() {
    std::vector<char> seen(states_.size());
    for (size_t s = 0; s < states_.size(); ++s) {
      if (seen[s]) continue;
      for (size_t r = 0; r < renamings_.size(); ++r) {
        const int t = Renamed(static_cast<int>(s), static_cast<int>(r));
        if (seen[t]) continue;
        seen[t] = 1;
        states_[t].leader = static_cast<int>(leaders_.size());
        states_[t].renaming = static_cast<int>(r);
      }
      leaders_.push_back(static_cast<int>(s));
    }
  }

  int half_, ranks_;
  std::vector<State> states_;
  std::vector<std::vector<int>> rows_;
  std::map<std::vector<int>, int> index_;
  std::vector<std::vector<int>> renamings_;
  std::vector<int> leaders_;
};

absl::Status CheckReach(const RoutingCounts& counts, const Topology& topology) {
  const double states = BalancedPartitions(counts.experts(), topology.ranks);
  const double half = std::pow(topology.ranks, (counts.experts() + 1) / 2);
  const double renamings = std::tgamma(topology.nodes + 1.0) * std::pow(std::tgamma(topology.ranks_per_node() + 1.0), topology.nodes);
  const double work = states * std::ceil(states / renamings) * counts.layers();
  if (topology.ranks <= kMostRanks && states <= kMostStates && half <= kMostHalf && work <= kMostWork) return absl::OkStatus();
  return Unimplemented(
      "exact placement: %d experts on %d ranks have %.3g balanced partitions a layer, too many over %d layers (at most %d, and %.0g pairs "
      "in all; 8 experts on 2 or 4 ranks always fit); use solver affinity",
      counts.experts(), topology.ranks, states, counts.layers(), kMostStates, kMostWork);
}

class ExactPlacement : public PlacementSolver {
 public:
  absl::StatusOr<PlacementTable> Solve(const PlacementProblem& problem) const override {
    const RoutingCounts& counts = *problem.counts;
    RETURN_IF_ERROR(CheckReach(counts, problem.topology));
    const StateSpace space(counts.experts(), problem.topology);
    const size_t leaders = space.leaders().size();
    std::vector<int64_t> least(leaders, 0), next(leaders);
    std::vector<std::vector<int>> before(counts.layers(), std::vector<int>(leaders));  // the best state of the layer before
    for (int j = 1; j < counts.layers(); ++j) {
      for (size_t l = 0; l < leaders; ++l) next[l] = Extend(problem, space, j, space.leaders()[l], least, &before[j][l]);
      least.swap(next);
    }
    int state = space.leaders()[std::min_element(least.begin(), least.end()) - least.begin()];
    PlacementTable table(counts.layers());
    for (int j = counts.layers() - 1; j >= 0; --j) {
      table[j] = space.row(state);
      const StateSpace::State& now = space.states()[state];
      if (j > 0) state = space.Renamed(before[j][now.leader], now.renaming);
    }
    return table;
  }

 private:
  // The least cost of layers 0..layer with `state` in `layer`, and the state before it; the first of equals.
  static int64_t Extend(const PlacementProblem& problem, const StateSpace& space, int layer, int state, const std::vector<int64_t>& least,
                        int* before) {
    const int experts = problem.counts->experts(), ranks = problem.topology.ranks;
    const std::span<const int64_t> w = problem.counts->transitions(layer - 1);
    const std::vector<int>& to = space.row(state);
    std::vector<int64_t> cost(static_cast<size_t>(experts) * ranks);
    for (int i = 0; i < experts; ++i) {
      for (int p = 0; p < ranks; ++p) {
        for (int e = 0; e < experts; ++e) {
          const Crossings one{.rank = to[e] != p, .node = problem.topology.NodeOf(to[e]) != problem.topology.NodeOf(p)};
          cost[i * ranks + p] += one.Cost(problem.topology) * w[i * experts + e];
        }
      }
    }
    const std::vector<int64_t> low = space.HalfSums(cost, 0, space.half()), high = space.HalfSums(cost, space.half(), experts);
    int64_t best = std::numeric_limits<int64_t>::max();
    for (size_t s = 0; s < space.states().size(); ++s) {
      const StateSpace::State& from = space.states()[s];
      const int64_t sum = least[from.leader] + low[from.low] + high[from.high];
      if (sum < best) best = sum, *before = static_cast<int>(s);
    }
    return best;
  }
};

}  // namespace

PlacementSolverOr MakeExactPlacement(const ExactPlacementConfig&) { return std::make_unique<ExactPlacement>(); }

}  // namespace conclave
