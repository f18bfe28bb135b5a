#include "parallel/chain_deals.h"

#include "base/check.h"

namespace conclave {

bool ColumnDeals::Serves(const ChainState& state) {
  return state.ranks() > 1 && state.experts() % state.ranks() == 0 && Serves(state.experts() / state.ranks(), state.nodes());
}

ColumnDeals::ColumnDeals(const ChainState* state)
    : state_(state), slots_(state->experts() / state->ranks()), held_(static_cast<size_t>(state->layers()) * state->experts()) {
  CHECK(Serves(*state));
  ceiling_ = 0;
  SetTable(state->table());
  ceiling_ = state->cost() - cost();
}

void ColumnDeals::SetTable(const PlacementTable& table) {
  for (int j = 0; j < state_->layers(); ++j) {
    std::vector<int> used(state_->ranks());
    for (int x = 0; x < state_->experts(); ++x) {
      const int rank = table[j][x];
      HeldBy(j, rank)[used[rank]++] = x;
    }
  }
}

int64_t ColumnDeals::cost() const {
  int64_t kept = 0;
  const int experts = state_->experts();
  for (int j = 0; j + 1 < state_->layers(); ++j) {
    const int *const from = held_.data() + static_cast<size_t>(j) * experts, *const to = from + experts;
    for (int s = 0; s < experts; ++s) {
      const int32_t* const row = state_->Forward(j, from[s]);
      for (int t = s / slots_ * slots_; t < (s / slots_ + 1) * slots_; ++t) kept += row[to[t]];
    }
  }
  return ceiling_ - state_->rank_gain() * kept;
}

PlacementTable ColumnDeals::table() const {
  PlacementTable table(state_->layers(), std::vector<int>(state_->experts()));
  for (int j = 0; j < state_->layers(); ++j) {
    for (int s = 0; s < state_->experts(); ++s) table[j][held_[static_cast<size_t>(j) * state_->experts() + s]] = s / slots_;
  }
  return table;
}

std::unique_ptr<ColumnDeals> MakeColumnDeals(const ChainState* state) {
  return state->experts() == 2 * state->ranks() ? MakeDealsOfTwo(state) : MakeDealsOfFour(state);
}

}  // namespace conclave
