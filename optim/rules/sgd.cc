// SGD with optional (Nesterov) momentum and decoupled decay. g: scaled gradient, x: value, v: velocity, lr and decay as told:
//   v <- momentum v + g;   d = nesterov ? g + momentum v : v;   x <- x - lr decay x - lr d
// Source: Sutskever et al., ICML 2013, in the form without (1 - momentum) on g; decay as in arXiv 1711.05101 (SGDW).
#include "base/simd.h"
#include "optim/rules.h"

namespace conclave {
namespace {

template <typename T>
struct SgdStep {
  T scale, keep, lr, momentum;  // keep = 1 - lr decay
};

template <typename T>
CONCLAVE_INLINE void PlainLoop(const SgdStep<T>& s, const T* __restrict g, T* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = s.keep * x[i] - s.lr * (s.scale * g[i]);
}
template <typename T>
CONCLAVE_INLINE void MomentumLoop(const SgdStep<T>& s, const T* __restrict g, T* __restrict x, T* __restrict v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T gradient = s.scale * g[i];
    v[i] = s.momentum * v[i] + gradient;
    x[i] = s.keep * x[i] - s.lr * v[i];
  }
}
template <typename T>
CONCLAVE_INLINE void NesterovLoop(const SgdStep<T>& s, const T* __restrict g, T* __restrict x, T* __restrict v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T gradient = s.scale * g[i];
    v[i] = s.momentum * v[i] + gradient;
    x[i] = s.keep * x[i] - s.lr * (gradient + s.momentum * v[i]);
  }
}
CONCLAVE_SIMD void Plain(const SgdStep<float>& s, const float* g, float* x, int64_t n) { PlainLoop(s, g, x, n); }
CONCLAVE_SIMD void Plain(const SgdStep<double>& s, const double* g, double* x, int64_t n) { PlainLoop(s, g, x, n); }
CONCLAVE_SIMD void Momentum(const SgdStep<float>& s, const float* g, float* x, float* v, int64_t n) { MomentumLoop(s, g, x, v, n); }
CONCLAVE_SIMD void Momentum(const SgdStep<double>& s, const double* g, double* x, double* v, int64_t n) { MomentumLoop(s, g, x, v, n); }
CONCLAVE_SIMD void Nesterov(const SgdStep<float>& s, const float* g, float* x, float* v, int64_t n) { NesterovLoop(s, g, x, v, n); }
CONCLAVE_SIMD void Nesterov(const SgdStep<double>& s, const double* g, double* x, double* v, int64_t n) { NesterovLoop(s, g, x, v, n); }

class Sgd final : public UpdateRule {
 public:
  Sgd(const SgdConfig& config, const Layout* layout, DType dtype) : momentum_(config.momentum()), nesterov_(config.nesterov()) {
    if (momentum_ > 0) velocity_ = FlatVector(layout, dtype);
  }

  void Apply(BlockId block, const Tensor& value, const Tensor& gradient, const RuleArgs& args) override {
    DispatchFloat(value.dtype(), [&](auto t) {
      using T = decltype(t);
      const SgdStep<T> step{.scale = static_cast<T>(args.gradient_scale),
                            .keep = static_cast<T>(1 - args.learning_rate * args.weight_decay),
                            .lr = static_cast<T>(args.learning_rate),
                            .momentum = static_cast<T>(momentum_)};
      T* x = value.data<T>();
      const T* g = gradient.data<T>();
      if (momentum_ == 0) return Plain(step, g, x, value.elements());
      T* v = velocity_.block(block).template data<T>();
      nesterov_ ? Nesterov(step, g, x, v, value.elements()) : Momentum(step, g, x, v, value.elements());
    });
  }

  void Register(StateDict& state) override {
    if (velocity_.defined()) state.Add("sgd.velocity", velocity_);
  }

 private:
  double momentum_;
  bool nesterov_;
  FlatVector velocity_;  // undefined without momentum
};

}  // namespace

std::unique_ptr<UpdateRule> MakeSgd(const SgdConfig& config, const Layout* layout, DType dtype) {
  return std::make_unique<Sgd>(config, layout, dtype);
}

}  // namespace conclave
