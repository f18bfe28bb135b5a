#include "parallel/chain_annealing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "base/rng.h"
#include "parallel/chain_columns.h"
#include "parallel/chain_crossover.h"
#include "parallel/chain_deals.h"

namespace conclave {
namespace {

// Columns cross every so many passes, where ranks hold few experts of a layer: it takes 0.2 % off the cost of 2 a rank, and nothing off
// that of 8.
constexpr int64_t kCrossEvery = 4;
constexpr int kFewSlots = 4;
// The short run takes one pass of kPilotShare; it tells temperatures apart by kBins intervals of equal ratio.
constexpr int64_t kPilotShare = 12;
constexpr int kBins = 32;
// What every interval gets, whatever the short run saw there.
constexpr double kEvenShare = 0.1;
// With deals, half of the passes anneal again and again what the other half came to, each time so many, from where the short run had still
// this share of its way down before it: there parts of a table melt and others hold.
constexpr double kReheatShare = 0.5, kReheatRise = 0.12;
constexpr int64_t kReheatPasses = 100;

using Shares = std::array<double, kBins>;

// Mean absolute cost of the swaps of expert x with expert x + 1 of the same layer.
double TypicalCost(const ChainState& state) {
  double sum = 0;
  int64_t count = 0;
  for (int j = 0; j < state.layers(); ++j) {
    for (int x = 0; x + 1 < state.experts(); ++x) {
      if (state.ranks_of(j)[x] == state.ranks_of(j)[x + 1]) continue;
      sum += std::abs(static_cast<double>(state.SwapCost(j, x, x + 1)));
      ++count;
    }
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

// One annealing run of a state: passes at given temperatures, one after the other.
class Passes {
 public:
  Passes(ChainState* state, const AnnealOptions& options, uint32_t site)
      : state_(state),
        moves_(state),
        key_{.seed = options.seed, .site = site, .step = options.start, .kind = RngKind::kPlacement},
        few_(state->experts() / state->ranks() <= kFewSlots),
        words_(state->layers()) {
    if (ColumnDeals::Serves(*state)) deals_ = MakeColumnDeals(state);
  }

  // A round robin: in each of its rounds rank r meets (round - r) mod `rounds`, the one left over meets the last rank.
  void Run(double temperature) {
    const int ranks = state_->ranks(), rounds = ranks + ranks % 2 - 1;
    for (int round = 0; round < rounds; ++round) {
      pairs_.clear();
      for (int a = 0; a < rounds; ++a) {
        int b = (round - a + rounds) % rounds;
        if (b < a) continue;
        if (b == a) b = rounds;  // the last rank, or where `ranks` is odd nobody
        if (b < ranks) pairs_.push_back({a, b});
      }
      deals_ ? Deal(static_cast<float>(temperature)) : Move(static_cast<float>(temperature));
    }
    ++done_;
  }

  int64_t cost() const { return deals_ ? deals_->cost() : state_->cost(); }
  // Nothing runs after this. Deals first go through rounds of kReheatPasses from `hot` to `cold`, and from each the parts that got better
  // are kept. The last round is one pass at temperature 0: two ranks are then optimal, and the state has the best table.
  void Finish(int64_t rounds, double hot, double cold) {
    if (!deals_) return;
    PlacementTable best = deals_->table();
    for (int64_t round = 0; round <= rounds; ++round) {
      const bool last = round == rounds;
      for (int64_t i = 0; i < (last ? 1 : kReheatPasses); ++i) {
        Run(last ? 0 : hot * std::pow(cold / hot, static_cast<double>(i) / static_cast<double>(kReheatPasses)));
      }
      TakeBetterParts(*state_, deals_->table(), &best);
      deals_->SetTable(best);
    }
    state_->SetTable(best);
  }

 private:
  void Draw() {
    key_.FillBits(drawn_, words_);
    drawn_ += words_.size();
  }
  void Deal(float temperature) {
    const size_t most = deals_->most_pairs();
    for (size_t first = 0; first < pairs_.size(); first += most) {
      Draw();
      deals_->Deal(std::span(pairs_).subspan(first, std::min(most, pairs_.size() - first)), temperature, words_);
    }
  }
  void Move(float temperature) {
    for (const auto [p, q] : pairs_) {
      Draw();
      moves_.Move(p, q, temperature, words_);
      if (few_ && done_ % kCrossEvery == 0) moves_.Cross(p, q, temperature, words_);
    }
  }

  ChainState* state_;
  ColumnMoves moves_;
  std::unique_ptr<ColumnDeals> deals_;
  RngKey key_;
  bool few_;
  std::vector<uint32_t> words_;
  std::vector<RankPair> pairs_;
  uint64_t drawn_ = 0;
  int64_t done_ = 0;
};

// In units of the mean absolute cost of a swap at the start. Column moves leave a random start at 1 and freeze at 0.04; deals hold less
// back: nothing that lasts is decided above 0.5, and nothing moves below 0.1.
struct AnnealRange {
  double hot, cold;
  // Temperature `progress` of the way, 0..1, from hot to cold.
  double At(double progress) const { return hot * std::pow(cold / hot, progress); }
};
AnnealRange RangeOf(const ChainState& state) {
  return ColumnDeals::Serves(state) ? AnnealRange{.hot = 0.5, .cold = 0.1} : AnnealRange{.hot = 1, .cold = 0.04};
}

// What a short run found out.
struct Pilot {
  Shares shares;      // of the passes, for each interval: as the root of the heat capacity over the logarithm of the temperature
  double reheat = 0;  // temperature in units of `typical`
};

Pilot MeasurePilot(ChainState& state, const AnnealOptions& options, double typical, int64_t passes) {
  Shares cost{}, count{};
  Pilot pilot{};
  const AnnealRange range = RangeOf(state);
  Passes run(&state, options, 3);
  for (int64_t i = 0; i < passes; ++i) {
    run.Run(typical * range.At(static_cast<double>(i) / static_cast<double>(passes)));
    const int64_t bin = i * kBins / passes;
    cost[bin] += static_cast<double>(run.cost());
    count[bin] += 1;
  }
  for (int b = 0; b < kBins; ++b) cost[b] /= count[b];
  double sum = 0;
  for (int b = 0; b < kBins; ++b) {
    const double fall = cost[std::max(b - 1, 0)] - cost[std::min(b + 1, kBins - 1)], temperature = range.At((b + 0.5) / kBins);
    pilot.shares[b] = std::sqrt(std::max(0.0, fall) / temperature);
    sum += pilot.shares[b];
    if (cost[b] - cost[kBins - 1] >= kReheatRise * (cost[0] - cost[kBins - 1])) pilot.reheat = temperature;
  }
  for (double& share : pilot.shares) share = kEvenShare / kBins + (sum > 0 ? (1 - kEvenShare) * share / sum : (1 - kEvenShare) / kBins);
  return pilot;
}

}  // namespace

void Anneal(ChainState& state, const AnnealOptions& options) {
  const double typical = TypicalCost(state);
  if (typical == 0 || options.passes < 1 || state.ranks() < 2) return;
  const AnnealRange range = RangeOf(state);
  Pilot pilot;
  pilot.shares.fill(1.0 / kBins);
  int64_t passes = options.passes, reheats = 0;
  if (passes / kPilotShare >= kBins) {
    const PlacementTable start = state.table();
    pilot = MeasurePilot(state, options, typical, passes / kPilotShare);
    state.SetTable(start);
    passes -= passes / kPilotShare;
    if (ColumnDeals::Serves(state)) reheats = static_cast<int64_t>(kReheatShare * static_cast<double>(passes)) / kReheatPasses;
    passes -= reheats * kReheatPasses;
  }
  Passes run(&state, options, 1);
  double at = 0;  // in intervals
  for (int64_t i = 0; i < passes; ++i) {
    run.Run(typical * range.At(at / kBins));
    at += 1 / (pilot.shares[std::min(static_cast<int>(at), kBins - 1)] * static_cast<double>(passes));
  }
  run.Finish(reheats, typical * pilot.reheat, typical * range.cold);
}

double PassNanoseconds(const PlacementProblem& problem) {  // measured on one core with AVX-512
  const RoutingCounts& counts = *problem.counts;
  const int ranks = problem.topology.ranks, slots = counts.experts() / ranks;
  const double pairs = 0.5 * ranks * (ranks - 1.0);
  if (ColumnDeals::Serves(slots, problem.topology.nodes == ranks ? 1 : problem.topology.nodes)) {
    if (slots == 4) return pairs * counts.layers() * 220;
    const double blocks = std::ceil(0.5 * ranks / 16);
    return (ranks - 1.0) * counts.layers() * (40 + 330 * blocks);
  }
  const double candidates = std::min(slots, ColumnMoves::kMostCandidates);
  return pairs * counts.layers() * (100 + 3.1 * candidates * candidates);
}

}  // namespace conclave
