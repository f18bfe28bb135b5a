#include <algorithm>

#include "base/trace.h"
#include "tensor/kernels/softmax.h"
#include "tensor/kernels/unary.h"
#include "tensor/ops/ops.h"
#include "tensor/products.h"

namespace conclave {
namespace {

// Rows of a piece: what products cut sums over rows into, or less where a row is long. By the vocabulary alone, so that no bit depends on
// n.
int64_t RowsOfLogits(int64_t vocabulary) {
  constexpr int64_t kLogits = int64_t{1} << 18, kMost = 256, kLeast = 64;
  return std::clamp(kLogits / vocabulary / kLeast * kLeast, kLeast, kMost);
}

// A piece of rows on its way: logits [rows, v], then their gradient for a loss of weight 1.
struct LogitPiece {
  Tensor logits, statistics, lse;
  const int32_t* targets;
};

// sum + the loss of the piece's rows, in order.
double AddLoss(const LogitPiece& p, double sum) {
  const TraceSpan span("cross entropy");
  const int64_t n = p.logits.dim(0), v = p.logits.dim(1);
  const double* lse = p.lse.data<double>();
  DispatchFloat(p.logits.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::LogSumExpForward(p.logits.data<T>(), p.statistics.data<T>(), p.lse.data<double>(), n, v);
    for (int64_t i = 0; i < n; ++i) {
      CHECK(p.targets[i] >= -1 && p.targets[i] < v) << "row " << i << " target " << p.targets[i] << " of " << v;
      if (p.targets[i] >= 0) sum += lse[i] - static_cast<double>(p.logits.data<T>()[i * v + p.targets[i]]);
    }
  });
  return sum;
}

// The logits become softmax - onehot(target), or zero for rows that do not count.
void TurnIntoGradient(const LogitPiece& p) {
  const TraceSpan span("cross entropy backward");
  const int64_t v = p.logits.dim(1);
  DispatchFloat(p.logits.dtype(), [&](auto t) {
    using T = decltype(t);
    T* x = p.logits.data<T>();
    for (int64_t i = 0; i < p.logits.dim(0); ++i) {
      if (p.targets[i] < 0) {
        std::fill_n(x + i * v, v, T(0));
        continue;
      }
      cpu::SoftmaxRowInPlace(p.statistics.data<T>(), x, i, v);
      x[i * v + p.targets[i]] -= T(1);
    }
  });
}

// v's gradient grows by weight * formed, whose memory is its own from now on where it was empty.
void PutScaled(Tape& tape, Var v, const Tensor& formed, double weight) {
  const bool taken = tape.PutGradient(v, formed);
  const Tape::GradientTarget to = taken ? Tape::GradientTarget{} : tape.gradient_target(v);
  DispatchFloat(formed.dtype(), [&](auto t) {
    using T = decltype(t);
    const T a = static_cast<T>(weight);
    if (taken) return cpu::ScaleInPlace(a, formed.data<T>(), formed.elements());
    if (to.accumulate) return cpu::AddScaled(a, formed.data<T>(), to.tensor.data<T>(), formed.elements());
    cpu::AffineForward(a, T(0), formed.data<T>(), to.tensor.data<T>(), formed.elements());
  });
}

}  // namespace

Var LinearCrossEntropy(Tape& tape, Var x, Var w, const Tensor& targets) {
  const Tensor in = tape.value(x), weight = tape.value(w);
  const int64_t n = in.dim(0), v = weight.dim(0), most = std::min(RowsOfLogits(v), n);
  CHECK(in.shape().dims() == 2 && weight.dim(1) == in.dim(1) && targets.elements() == n)
      << in.shape().ToString() << ' ' << weight.shape().ToString() << ' ' << targets.shape().ToString();
  Arena& arena = tape.arena();
  const Tensor loss = arena.New({1}, DType::kF64);
  const Tensor dx = tape.wants_gradient(x) ? arena.New(in.shape(), in.dtype()) : Tensor();
  const Tensor dw = tape.wants_gradient(w) ? arena.New(weight.shape(), in.dtype()) : Tensor();
  if (dw.defined() && n == 0) dw.Zero();
  const Arena::Mark mark = arena.Here();
  const Tensor logits = arena.New({most, v}, in.dtype()), statistics = arena.New({most, 2}, in.dtype()),
               lse = arena.New({most}, DType::kF64);
  const ProductPrecision precision = tape.products();
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += most) {
    const int64_t rows = std::min(most, n - begin);
    const LogitPiece piece{logits.Slice(0, rows), statistics, lse, targets.data<int32_t>() + begin};
    const Tensor x_rows = in.Slice(begin, rows);
    ProductNT(x_rows, weight, {}, piece.logits, {.precision = precision});
    sum = AddLoss(piece, sum);
    if (!dx.defined() && !dw.defined()) continue;
    TurnIntoGradient(piece);
    if (dx.defined()) ProductNN(piece.logits, weight, dx.Slice(begin, rows), {.precision = precision});
    if (dw.defined()) ProductTN(piece.logits, x_rows, dw, {.accumulate = begin > 0, .precision = precision});
  }
  arena.Rewind(mark);
  *loss.data<double>() = sum;
  const Var y = tape.Record(loss, {x, w});
  tape.OnBackward(y, [x, w, y, dx, dw](Tape& tape) {
    const TraceSpan span("cross entropy backward");
    const double g = *tape.gradient(y).data<double>();
    if (dx.defined()) PutScaled(tape, x, dx, g);
    if (dw.defined()) PutScaled(tape, w, dw, g);
  });
  return y;
}

}  // namespace conclave
