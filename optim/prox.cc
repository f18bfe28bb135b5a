#include "optim/prox.h"

#include <algorithm>

namespace conclave {
namespace {

class Zero final : public Prox {
 public:
  void Apply(const FlatVector&, double) const override {}
  bool is_zero() const override { return true; }
};

// map(value, gamma), coordinate by coordinate. Gaps between blocks are left alone.
template <typename Map>
class Coordinatewise final : public Prox {
 public:
  explicit Coordinatewise(Map map) : map_(map) {}
  void Apply(const FlatVector& v, double gamma) const override {
    DispatchFloat(v.dtype(), [&](auto t) {
      using T = decltype(t);
      for (const BlockId id : v.layout().local_blocks()) {
        for (T& x : v.block(id).template span<T>()) x = static_cast<T>(map_(static_cast<double>(x), gamma));
      }
    });
  }

 private:
  Map map_;
};

template <typename Map>
std::unique_ptr<Prox> ByCoordinate(Map map) {
  return std::make_unique<Coordinatewise<Map>>(map);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Prox>> MakeProx(const ProxConfig& config) {
  switch (config.kind_case()) {
    case ProxConfig::kL1: {
      const double weight = config.l1().weight();
      if (!(weight >= 0)) return InvalidArgument("optim.prox.l1.weight must be at least 0, got %g", weight);
      return ByCoordinate([weight](double x, double gamma) {
        const double shift = gamma * weight;
        return x > shift ? x - shift : x < -shift ? x + shift : 0.0;
      });
    }
    case ProxConfig::kL2Squared: {
      const double weight = config.l2_squared().weight();
      if (!(weight >= 0)) return InvalidArgument("optim.prox.l2_squared.weight must be at least 0, got %g", weight);
      return ByCoordinate([weight](double x, double gamma) { return x / (1 + gamma * weight); });
    }
    case ProxConfig::kBox: {
      const double lower = config.box().lower(), upper = config.box().upper();
      if (!(lower <= upper)) return InvalidArgument("optim.prox.box: lower must be at most upper, got %g and %g", lower, upper);
      return ByCoordinate([lower, upper](double x, double) { return std::clamp(x, lower, upper); });
    }
    case ProxConfig::kZero:
    case ProxConfig::KIND_NOT_SET:
      break;
  }
  return std::make_unique<Zero>();
}

}  // namespace conclave
