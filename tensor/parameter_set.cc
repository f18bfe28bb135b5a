#include "tensor/parameter_set.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/rng.h"

namespace conclave {

BlockId ParameterSet::Add(BlockSpec spec) {
  const BlockId id{size()};
  CHECK(by_name_.emplace(spec.name, id.value).second) << spec.name;
  blocks_.push_back(std::move(spec));
  return id;
}

BlockId ParameterSet::Find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return {it == by_name_.end() ? -1 : it->second};
}

int64_t ParameterSet::elements() const {
  int64_t n = 0;
  for (const BlockSpec& block : blocks_) n += block.shape.elements();
  return n;
}

void Initialize(const BlockSpec& spec, BlockId id, uint64_t seed, const Tensor& value) {
  CHECK(value.shape() == spec.shape) << spec.name << ' ' << value.shape().ToString();
  if (spec.init.kind == Init::Kind::kZero) return value.Zero();
  if (spec.init.kind == Init::Kind::kConstant) return value.Fill(spec.init.value);
  const RngKey key{.seed = seed, .site = static_cast<uint32_t>(id.value), .kind = RngKind::kInit};
  DispatchFloat(value.dtype(), [&](auto t) {
    using T = decltype(t);
    const std::span<T> out = value.span<T>();
    std::array<double, 256> draws;
    for (size_t at = 0; at < out.size(); at += draws.size()) {
      const std::span<double> some = std::span(draws).first(std::min(draws.size(), out.size() - at));
      key.FillNormal(at, some);
      for (size_t i = 0; i < some.size(); ++i) out[at + i] = static_cast<T>(spec.init.value * some[i]);
    }
  });
}

}  // namespace conclave
