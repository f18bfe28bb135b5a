// AdamW. g: scaled gradient, x: value, m, v: moments, t: accepted updates, this one included:
//   m <- beta1 m + (1 - beta1) g;   v <- beta2 v + (1 - beta2) g^2
//   x <- x - lr decay x - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
// After `freeze_after` updates v stays and g is taken for m: what the one_bit exchange then brings is a momentum.
// Source: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, with the schedule factor inside lr for the decay too.
#include <cmath>

#include "base/simd.h"
#include "optim/rules.h"
#include "tensor/kernels/ahead.h"

namespace conclave {
namespace {

template <typename T>
struct AdamStep {
  T scale, keep;               // keep = 1 - lr decay
  T beta1, add1, beta2, add2;  // add = 1 - beta, rounded once
  T size, correct2, eps;       // size = lr / (1 - beta1^t); correct2 = 1 / sqrt(1 - beta2^t)
};

template <typename T>
CONCLAVE_INLINE T Root(T x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return __builtin_sqrtf(x);
  } else {
    return __builtin_sqrt(x);
  }
}

template <typename T>
CONCLAVE_INLINE void AdamLoop(const AdamStep<T> s, const T* __restrict g, T* __restrict x, T* __restrict m, T* __restrict v, int64_t n) {
  const auto part = [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t i = begin; i < end; ++i) {
      const T gradient = s.scale * g[i];
      m[i] = s.beta1 * m[i] + s.add1 * gradient;
      v[i] = s.beta2 * v[i] + s.add2 * gradient * gradient;
      x[i] = s.keep * x[i] - s.size * m[i] / (s.correct2 * Root(v[i]) + s.eps);
    }
  };
  cpu::WithReadAhead(n, part, g, x, m, v);
}
CONCLAVE_SIMD void Adam(const AdamStep<float>& s, const float* g, float* x, float* m, float* v, int64_t n) { AdamLoop(s, g, x, m, v, n); }
CONCLAVE_SIMD void Adam(const AdamStep<double>& s, const double* g, double* x, double* m, double* v, int64_t n) {
  AdamLoop(s, g, x, m, v, n);
}

class AdamW final : public UpdateRule {
 public:
  AdamW(const AdamWConfig& config, const Layout* layout, DType dtype)
      : beta1_(config.beta1()),
        beta2_(config.beta2()),
        eps_(config.eps()),
        freeze_after_(config.freeze_after()),
        m_(layout, dtype),
        v_(layout, dtype) {}

  void Apply(BlockId block, const Tensor& value, const Tensor& gradient, const RuleArgs& args) override {
    const double t = static_cast<double>(args.t);
    const bool frozen = freeze_after_ > 0 && args.t > freeze_after_;
    const double v_updates = frozen ? static_cast<double>(freeze_after_) : t;
    DispatchFloat(value.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const AdamStep<T> step{.scale = static_cast<T>(args.gradient_scale),
                             .keep = static_cast<T>(1 - args.learning_rate * args.weight_decay),
                             .beta1 = static_cast<T>(frozen ? 0 : beta1_),
                             .add1 = static_cast<T>(frozen ? 1 : 1 - beta1_),
                             .beta2 = static_cast<T>(frozen ? 1 : beta2_),
                             .add2 = static_cast<T>(frozen ? 0 : 1 - beta2_),
                             .size = static_cast<T>(args.learning_rate / (1 - std::pow(beta1_, t))),
                             .correct2 = static_cast<T>(1 / std::sqrt(1 - std::pow(beta2_, v_updates))),
                             .eps = static_cast<T>(eps_)};
      Adam(step, gradient.data<T>(), value.data<T>(), m_.block(block).template data<T>(), v_.block(block).template data<T>(),
           value.elements());
    });
  }

  void Register(StateDict& state) override {
    state.Add("adamw.m", m_);
    state.Add("adamw.v", v_);
  }

 private:
  double beta1_, beta2_, eps_;
  int64_t freeze_after_;
  FlatVector m_, v_;
};

}  // namespace

std::unique_ptr<UpdateRule> MakeAdamW(const AdamWConfig& config, const Layout* layout, DType dtype) {
  return std::make_unique<AdamW>(config, layout, dtype);
}

}  // namespace conclave
