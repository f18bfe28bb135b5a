#include "optim/prox.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "base/glob.h"

namespace conclave {
namespace {

class Zero final : public Prox {
 public:
  void ApplyToBlock(BlockId, const Tensor&, double) const override {}
  bool is_zero() const override { return true; }
};

// Map: double(double x, double gamma).
template <typename Map>
class Coordinatewise final : public Prox {
 public:
  explicit Coordinatewise(Map map) : map_(map) {}
  void ApplyToBlock(BlockId, const Tensor& block, double gamma) const override {
    DispatchFloat(block.dtype(), [&](auto t) {
      using T = decltype(t);
      for (T& x : block.span<T>()) x = static_cast<T>(map_(static_cast<double>(x), gamma));
    });
  }

 private:
  Map map_;
};

template <typename Map>
std::unique_ptr<Prox> ByCoordinate(Map map) {
  return std::make_unique<Coordinatewise<Map>>(map);
}

// How far a sum of n terms of the size of `size`, stored as T, may be off by rounding. Projections leave points alone that are no farther
// outside: so projecting twice gives the bits of projecting once.
template <typename T>
double RoundingOf(double size, int64_t n) {
  return size * (4 * static_cast<double>(std::numeric_limits<T>::epsilon()) + 2 * static_cast<double>(n) * 0x1p-52);
}

// The t with sum_i max(value(i) - t, 0) = total, total > 0, by Michelot's fixed point (1986): the mean excess over the coordinates above t
// grows until that set no longer shrinks. Exact after finitely many passes, and needs no sorting and no memory.
template <typename Value>
double Threshold(int64_t n, double total, Value value) {
  double threshold = -std::numeric_limits<double>::infinity();
  for (int64_t active = n + 1;;) {
    double sum = 0;
    int64_t above = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double x = value(i);
      if (!(x > threshold)) continue;
      sum += x;
      ++above;
    }
    if (above == 0 || above >= active) return threshold;
    active = above;
    threshold = (sum - total) / static_cast<double>(above);
  }
}

class L1Ball final : public Prox {
 public:
  explicit L1Ball(double radius) : radius_(radius) {}
  void ApplyToBlock(BlockId, const Tensor& block, double) const override {
    DispatchFloat(block.dtype(), [&](auto t) {
      using T = decltype(t);
      const auto x = block.span<T>();
      const auto n = static_cast<int64_t>(x.size());
      double norm = 0;
      for (const T value : x) norm += std::abs(static_cast<double>(value));
      if (norm <= radius_ + RoundingOf<T>(radius_, n)) return;
      const double threshold = Threshold(n, radius_, [x](int64_t i) { return std::abs(static_cast<double>(x[i])); });
      for (T& value : x) {
        const double excess = std::abs(static_cast<double>(value)) - threshold;
        value = excess <= 0 ? T{0} : static_cast<T>(std::copysign(excess, static_cast<double>(value)));
      }
    });
  }

 private:
  double radius_;
};

class L2Ball final : public Prox {
 public:
  explicit L2Ball(double radius) : radius_(radius) {}
  void ApplyToBlock(BlockId, const Tensor& block, double) const override {
    DispatchFloat(block.dtype(), [&](auto t) {
      using T = decltype(t);
      const auto x = block.span<T>();
      double squares = 0;
      for (const T value : x) squares += static_cast<double>(value) * static_cast<double>(value);
      const double norm = std::sqrt(squares);
      if (norm <= radius_ + RoundingOf<T>(radius_, static_cast<int64_t>(x.size()))) return;
      for (T& value : x) value = static_cast<T>(static_cast<double>(value) * (radius_ / norm));
    });
  }

 private:
  double radius_;
};

class Simplex final : public Prox {
 public:
  explicit Simplex(double total) : total_(total) {}
  void ApplyToBlock(BlockId, const Tensor& block, double) const override {
    DispatchFloat(block.dtype(), [&](auto t) {
      using T = decltype(t);
      const auto x = block.span<T>();
      const auto n = static_cast<int64_t>(x.size());
      double sum = 0;
      bool negative = false;
      for (const T value : x) {
        sum += static_cast<double>(value);
        negative |= value < 0;
      }
      if (!negative && std::abs(sum - total_) <= RoundingOf<T>(total_, n)) return;
      const double threshold = Threshold(n, total_, [x](int64_t i) { return static_cast<double>(x[i]); });
      for (T& value : x) {
        const double excess = static_cast<double>(value) - threshold;
        value = excess <= 0 ? T{0} : static_cast<T>(excess);
      }
    });
  }

 private:
  double total_;
};

class Product final : public Prox {
 public:
  Product(std::vector<std::unique_ptr<Prox>> factors, std::vector<int> factor_of)
      : factors_(std::move(factors)), factor_of_(std::move(factor_of)) {}
  void ApplyToBlock(BlockId id, const Tensor& block, double gamma) const override {
    if (const int factor = factor_of_[id.value]; factor >= 0) factors_[factor]->ApplyToBlock(id, block, gamma);
  }
  bool is_zero() const override {
    return std::ranges::all_of(factors_, [](const auto& factor) { return factor->is_zero(); });
  }

 private:
  std::vector<std::unique_ptr<Prox>> factors_;
  std::vector<int> factor_of_;  // by block id; -1: h = 0
};

absl::StatusOr<std::unique_ptr<Prox>> MakeProduct(const ProductProxConfig& config, const ParameterSet& parameters) {
  std::vector<std::unique_ptr<Prox>> factors;
  std::vector<int> factor_of(parameters.size(), -1);
  for (int f = 0; f < config.factors_size(); ++f) {
    const ProxFactorConfig& factor = config.factors(f);
    const std::string path = absl::StrFormat("optim.prox.product.factors[%d]", f);
    if (factor.prox().has_product()) return InvalidArgument("%s: a product within a product; list its factors here", path);
    bool used = false;
    for (int i = 0; i < parameters.size(); ++i) {
      if (factor_of[i] >= 0 || !GlobMatches(factor.pattern(), parameters[{i}].name)) continue;
      factor_of[i] = f;
      used = true;
    }
    if (!used) {
      return InvalidArgument("%s.pattern \"%s\" matches no block that an earlier factor has left; the first block is \"%s\"", path,
                             factor.pattern(), parameters.size() > 0 ? parameters[{0}].name : "");
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Prox> prox, MakeProx(factor.prox(), parameters));
    factors.push_back(std::move(prox));
  }
  return std::make_unique<Product>(std::move(factors), std::move(factor_of));
}

absl::Status CheckPositive(const char* field, double value) {
  if (value > 0 && std::isfinite(value)) return absl::OkStatus();
  return InvalidArgument("optim.prox.%s must be positive, got %g", field, value);
}

}  // namespace

void Prox::Apply(const FlatVector& v, double gamma) const {
  if (is_zero()) return;
  for (const BlockId id : v.layout().local_blocks()) ApplyToBlock(id, v.block(id), gamma);
}

absl::StatusOr<std::unique_ptr<Prox>> MakeProx(const ProxConfig& config, const ParameterSet& parameters) {
  switch (config.kind_case()) {
    case ProxConfig::kL1: {
      const double weight = config.l1().weight();
      if (!(weight >= 0)) return InvalidArgument("optim.prox.l1.weight must be at least 0, got %g", weight);
      return ByCoordinate([weight](double x, double gamma) {
        const double shift = gamma * weight;
        return x > shift ? x - shift : x < -shift ? x + shift : x == x ? 0.0 : x;
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
    case ProxConfig::kL1Ball:
      RETURN_IF_ERROR(CheckPositive("l1_ball.radius", config.l1_ball().radius()));
      return std::make_unique<L1Ball>(config.l1_ball().radius());
    case ProxConfig::kL2Ball:
      RETURN_IF_ERROR(CheckPositive("l2_ball.radius", config.l2_ball().radius()));
      return std::make_unique<L2Ball>(config.l2_ball().radius());
    case ProxConfig::kSimplex:
      RETURN_IF_ERROR(CheckPositive("simplex.total", config.simplex().total()));
      return std::make_unique<Simplex>(config.simplex().total());
    case ProxConfig::kProduct:
      return MakeProduct(config.product(), parameters);
    case ProxConfig::kZero:
    case ProxConfig::KIND_NOT_SET:
      break;
  }
  return std::make_unique<Zero>();
}

}  // namespace conclave
