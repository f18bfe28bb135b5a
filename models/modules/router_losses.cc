// The losses of a router: balance and z.
#include <cstring>

#include "models/modules/router.h"

namespace conclave {

Var BalanceLoss(Tape& tape, const Routing& routing, const BalanceArgs& args) {
  const Tensor p = tape.value(routing.probabilities);
  const int64_t n = p.dim(0), experts = p.dim(1), k = routing.selected.dim(1);
  const bool shared = args.scope == MoeConfig::GLOBAL || args.scope == MoeConfig::BATCH;
  // aux = sum over tokens and experts of p * factor, factor[t, i] = E f_i(scope of t) / tokens of the scope.
  const Tensor factor = tape.arena().NewZeroed(p.shape(), p.dtype());
  const int64_t groups = args.scope == MoeConfig::SEQUENCE ? args.sequences : 1;
  const Tensor counts = tape.arena().New({experts}, DType::kI64);
  for (int64_t g = 0; n > 0 && g < groups; ++g) {
    const int64_t rows = n / groups;
    if (shared) {
      std::memcpy(counts.raw(), args.counts.data(), counts.bytes());
    } else {
      counts.Zero();
      CountExperts(routing.selected.Slice(g * rows, rows), counts.span<int64_t>());
    }
    int64_t total = 0;
    for (const int64_t c : counts.span<int64_t>()) total += c;
    if (!shared) CHECK_EQ(total, rows * k);
    DispatchFloat(p.dtype(), [&](auto t) {
      using T = decltype(t);
      T* f = factor.data<T>() + g * rows * experts;
      for (int64_t i = 0; i < experts; ++i) {
        const double value =
            static_cast<double>(experts) * static_cast<double>(counts.data<int64_t>()[i]) / (static_cast<double>(total) * n);
        for (int64_t row = 0; row < rows; ++row) f[row * experts + i] = static_cast<T>(value);
      }
    });
  }
  return Dot(tape, routing.probabilities, tape.Constant(factor));
}

Var RouterZSum(Tape& tape, Var logits) { return SumAll(tape, Square(tape, LogSumExp(tape, logits))); }

}  // namespace conclave
