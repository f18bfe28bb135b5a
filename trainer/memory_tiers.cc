#include "trainer/memory_tiers.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/strings.h"

namespace conclave {
namespace {

__extension__ using Wide = __int128;

// Whether numerator / denominator bytes fit.
TierDemand Demand(std::string tier, std::string formula, std::pair<Wide, Wide> bytes, Wide available) {
  const auto [numerator, denominator] = bytes;
  return {.tier = std::move(tier),
          .formula = std::move(formula),
          .needed = static_cast<int64_t>((numerator + denominator - 1) / denominator),
          .available = static_cast<int64_t>(std::min(available, Wide{std::numeric_limits<int64_t>::max()})),
          .fits = numerator <= available * denominator};
}

}  // namespace

absl::StatusOr<MixtureSize> SizeOfMixture(const Model& model, int64_t top_k) {
  const std::vector<int> experts = model.experts();
  if (experts.empty()) return FailedPrecondition("memory of machines: the model has no experts, whose states could be kept elsewhere");
  MixtureSize size{.experts = experts[0], .top_k = top_k, .layers = static_cast<int64_t>(experts.size())};
  const ParameterSet& parameters = model.parameters();
  for (int i = 0; i < parameters.size(); ++i) {
    const auto& block = parameters[BlockId{i}];
    (block.of_mixture() ? size.sparse : size.dense) += block.shape.elements();
  }
  return size;
}

std::vector<TierDemand> DemandsOf(const MixtureSize& s, const MachineMemory& m) {
  std::vector<TierDemand> demands;
  const Wide active = Wide{s.top_k} * s.sparse;
  if (m.device > 0) {
    const Wide cut = Wide{s.experts} * s.layers;
    demands.push_back(Demand("device", "16 D + 4 alpha S / L", {16 * Wide{s.dense} * cut + 4 * active, cut}, Wide{m.device} * m.machines));
  }
  if (m.host > 0) demands.push_back(Demand("host", "16 alpha S", {16 * active, s.experts}, Wide{m.host} * m.machines));
  if (m.disk > 0) demands.push_back(Demand("disk", "12 S", {12 * Wide{s.sparse}, 1}, Wide{m.disk} * m.machines));
  return demands;
}

absl::Status CheckTiers(const std::vector<TierDemand>& demands, int64_t machines) {
  std::string wrong;
  for (const TierDemand& demand : demands) {
    if (demand.fits) continue;
    absl::StrAppendFormat(&wrong, "%s%s memory: %s = %s, but %d machines have %s", wrong.empty() ? "" : "; ", demand.tier, demand.formula,
                          HumanBytes(demand.needed), machines, HumanBytes(demand.available));
  }
  if (wrong.empty()) return absl::OkStatus();
  return FailedPrecondition("the model does not fit: %s; use more machines, fewer or narrower experts", wrong);
}

}  // namespace conclave
