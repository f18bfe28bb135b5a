// Muon. g: scaled gradient, W: value [rows, cols], m: momentum:
//   m <- beta m + (1 - beta) g;   u = (1 - beta) g + beta m;   W <- (1 - lr decay) W - lr sqrt(max(1, rows / cols)) NS(u)
// NS(u) is u with its singular values pushed to about 1, by Newton-Schulz steps on X = u / (|u| + 1e-7), transposed if rows > cols:
//   A = X X^T;   X <- a X + (b A + c A^2) X
// Source: Jordan et al., Muon (2024), with its quintic's coefficients; decay as in arXiv 1711.05101.
#include <algorithm>
#include <cmath>

#include "base/simd.h"
#include "optim/rules.h"
#include "tensor/products.h"
#include "tensor/reduce.h"

namespace conclave {
namespace {

constexpr double kQuinticA = 3.4445, kQuinticB = -4.7750, kQuinticC = 2.0315;
constexpr double kNormFloor = 1e-7;

// u goes to `out`.
template <typename T>
struct MuonMomentum {
  T scale, beta, add;  // add = 1 - beta, rounded once
  bool nesterov;
};
template <typename T>
CONCLAVE_INLINE void MomentumOfMuon(const MuonMomentum<T>& s, const T* __restrict g, T* __restrict m, T* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T gradient = s.scale * g[i];
    m[i] = s.beta * m[i] + s.add * gradient;
    out[i] = s.nesterov ? s.add * gradient + s.beta * m[i] : m[i];
  }
}
CONCLAVE_SIMD void MuonDirection(const MuonMomentum<float>& s, const float* g, float* m, float* out, int64_t n) {
  MomentumOfMuon(s, g, m, out, n);
}
CONCLAVE_SIMD void MuonDirection(const MuonMomentum<double>& s, const double* g, double* m, double* out, int64_t n) {
  MomentumOfMuon(s, g, m, out, n);
}

// out = a x + b y. x may be out.
template <typename T>
CONCLAVE_INLINE void BlendLoop(T a, const T* x, T b, const T* y, T* out, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = a * x[i] + b * y[i];
}
CONCLAVE_SIMD void Blend(float a, const float* x, float b, const float* y, float* out, int64_t n) { BlendLoop(a, x, b, y, out, n); }
CONCLAVE_SIMD void Blend(double a, const double* x, double b, const double* y, double* out, int64_t n) { BlendLoop(a, x, b, y, out, n); }

template <typename T>
void TransposeInto(const T* x, int64_t rows, int64_t columns, T* out) {
  constexpr int64_t kSide = 16;  // a tile of both fits into the first cache
  for (int64_t r0 = 0; r0 < rows; r0 += kSide) {
    for (int64_t c0 = 0; c0 < columns; c0 += kSide) {
      for (int64_t r = r0; r < std::min(rows, r0 + kSide); ++r) {
        for (int64_t c = c0; c < std::min(columns, c0 + kSide); ++c) out[c * rows + r] = x[r * columns + c];
      }
    }
  }
}

class Muon final : public UpdateRule {
 public:
  Muon(const MuonConfig& config, const Layout* layout, DType dtype)
      : beta_(config.momentum()), nesterov_(config.nesterov()), steps_(config.ns_steps()), m_(layout, dtype) {
    int64_t largest = 0, widest = 0;
    for (const BlockId id : layout->local_blocks()) {
      const Shape& shape = layout->parameters()[id].shape;
      largest = std::max(largest, shape.elements());
      widest = std::max(widest, std::min(shape[0], shape[1]));
    }
    for (OwnedTensor* space : {&u_, &x_, &next_}) *space = OwnedTensor({largest}, dtype);
    for (OwnedTensor* space : {&a_, &polynomial_}) *space = OwnedTensor({widest * widest}, dtype);
  }

  void Apply(BlockId block, const Tensor& value, const Tensor& gradient, const RuleArgs& args) override {
    const int64_t rows = value.dim(0), columns = value.dim(1), n = value.elements();
    if (n == 0) return;
    const Tensor u = u_->Slice(0, n).Reshape(value.shape());
    DispatchFloat(value.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const MuonMomentum<T> momentum{static_cast<T>(args.gradient_scale), static_cast<T>(beta_), static_cast<T>(1 - beta_), nesterov_};
      MuonDirection(momentum, gradient.data<T>(), m_.block(block).template data<T>(), u.data<T>(), n);
    });
    Orthogonalize(u);
    const double aspect = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)));
    DispatchFloat(value.dtype(), [&](auto zero) {
      using T = decltype(zero);
      Blend(static_cast<T>(1 - args.learning_rate * args.weight_decay), value.data<T>(), static_cast<T>(-args.learning_rate * aspect),
            u.data<T>(), value.data<T>(), n);
    });
  }

  void Register(StateDict& state) override { state.Add("muon.m", m_); }

 private:
  // u: [rows, columns], in place. Cost: steps_ times 4 r^2 c + 2 r^3 FLOP, r the smaller side, c the larger.
  void Orthogonalize(const Tensor& u) {
    const int64_t rows = u.dim(0), columns = u.dim(1), r = std::min(rows, columns), c = std::max(rows, columns);
    Tensor x = x_->Slice(0, u.elements()).Reshape({r, c}), next = next_->Slice(0, u.elements()).Reshape({r, c});
    const Tensor a = a_->Slice(0, r * r).Reshape({r, r}), polynomial = polynomial_->Slice(0, r * r).Reshape({r, r});
    const double norm = std::sqrt(SumOfSquares(u)) + kNormFloor;
    DispatchFloat(u.dtype(), [&](auto zero) {
      using T = decltype(zero);
      if (rows > columns) {
        TransposeInto(u.data<T>(), rows, columns, x.data<T>());
      } else {
        x.CopyFrom(u);
      }
      Blend(static_cast<T>(1 / norm), x.data<T>(), T{0}, x.data<T>(), x.data<T>(), x.elements());
      for (int step = 0; step < steps_; ++step) {
        ProductNT(x, x, {}, a);
        ProductNT(a, a, {}, polynomial);  // A is symmetric
        Blend(static_cast<T>(kQuinticB), a.data<T>(), static_cast<T>(kQuinticC), polynomial.data<T>(), polynomial.data<T>(), a.elements());
        Blend(static_cast<T>(kQuinticA), x.data<T>(), T{0}, x.data<T>(), next.data<T>(), x.elements());
        ProductNN(polynomial, x, next, {.accumulate = true});
        std::swap(x, next);
      }
      if (rows > columns) {
        TransposeInto(x.data<T>(), columns, rows, u.data<T>());
      } else {
        u.CopyFrom(x);
      }
    });
  }

  double beta_;
  bool nesterov_;
  int64_t steps_;
  FlatVector m_;
  OwnedTensor u_, x_, next_, a_, polynomial_;  // scratch of the largest block
};

}  // namespace

absl::StatusOr<std::unique_ptr<UpdateRule>> MakeMuon(const MuonConfig& config, const Layout* layout, DType dtype) {
  for (const BlockId id : layout->local_blocks()) {
    const BlockSpec& spec = layout->parameters()[id];
    if (spec.shape.dims() == 2) continue;
    return InvalidArgument(
        "optim: muon updates matrices, and %s is %s; give such blocks a group with a rule of their own, such as groups { pattern: \"%s\" "
        "rule { "
        "adamw {} } }",
        spec.name, spec.shape.ToString(), spec.name);
  }
  return std::make_unique<Muon>(config, layout, dtype);
}

}  // namespace conclave
