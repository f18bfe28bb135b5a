#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace conclave {

absl::StatusOr<Mixture> Mixture::Create(uint64_t seed, const std::vector<double>& weights) {
  if (weights.empty()) return InvalidArgument("data.sources: expected at least one source, got none");
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0) || !std::isfinite(weights[i]))
      return InvalidArgument("data.sources[%d].weight: expected a positive number, got %g", i, weights[i]);
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> quotas;
  std::vector<double> remainders;
  for (const double weight : weights) {
    const double share = weight / total * kBlock;
    quotas.push_back(static_cast<int64_t>(std::floor(share)));
    remainders.push_back(share - std::floor(share));
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  const int64_t missing = kBlock - std::accumulate(quotas.begin(), quotas.end(), int64_t{0});
  for (int64_t i = 0; i < missing; ++i) ++quotas[order[static_cast<size_t>(i) % order.size()]];
  Mixture mixture;
  mixture.seed_ = seed;
  mixture.begins_.push_back(0);
  for (size_t i = 0; i < quotas.size(); ++i) {
    if (quotas[i] == 0) {
      return InvalidArgument("data.sources[%d].weight: %g of %g in all is less than one sample in %d; raise it or drop the source", i,
                             weights[i], total, kBlock);
    }
    mixture.begins_.push_back(mixture.begins_.back() + quotas[i]);
  }
  return mixture;
}

Mixture Mixture::OfBatches(const std::vector<int64_t>& batches) {
  Mixture mixture;
  mixture.in_order_ = true;
  mixture.begins_.push_back(0);
  for (const int64_t batch : batches) mixture.begins_.push_back(mixture.begins_.back() + batch);
  return mixture;
}

Mixture::Pick Mixture::At(int64_t position, uint32_t draw) const {
  if (sources() == 1) return {0, position};
  const auto at = [this](int64_t block, int64_t slot) -> Pick {
    const auto source = static_cast<int>(std::upper_bound(begins_.begin(), begins_.end(), slot) - begins_.begin()) - 1;
    return {source, block * quota(source) + slot - begins_[source]};
  };
  if (in_order_) return at(position / begins_.back(), position % begins_.back());
  const int64_t block = position / kBlock;
  // The block's number is split over two fields of the key, which have 32 and 24 bits.
  const IndexPermutation permutation({.seed = seed_,
                                      .site = static_cast<uint32_t>(block >> 32) & 0xFFFFFF,
                                      .step = static_cast<uint32_t>(block),
                                      .kind = RngKind::kMixture,
                                      .draw = draw},
                                     kBlock);
  return at(block, static_cast<int64_t>(permutation(static_cast<uint64_t>(position % kBlock))));
}

}  // namespace conclave
