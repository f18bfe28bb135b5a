#include "tensor/ops/ops.h"

#include <algorithm>

#include "base/trace.h"
#include "tensor/kernels/softmax.h"

namespace conclave {

// loss = sum_i lse_i - logits[i, target_i]; d logits[i] = softmax(logits[i]) - onehot(target_i).
Var CrossEntropy(Tape& tape, Var logits, const Tensor& targets) {
  const TraceSpan span("cross entropy");
  const Tensor x = tape.value(logits);
  CHECK(x.shape().dims() == 2 && targets.elements() == x.dim(0)) << x.shape().ToString() << ' ' << targets.shape().ToString();
  const int64_t n = x.dim(0), v = x.dim(1);
  const int32_t* target = targets.data<int32_t>();
  const Tensor statistics = tape.arena().New({n, 2}, x.dtype());
  const Tensor loss = tape.arena().New({1}, DType::kF64);
  const Arena::Mark mark = tape.arena().Here();
  double* lse = tape.arena().New({n}, DType::kF64).data<double>();
  double sum = 0;
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::LogSumExpForward(x.data<T>(), statistics.data<T>(), lse, n, v);
    for (int64_t i = 0; i < n; ++i) {
      CHECK(target[i] >= -1 && target[i] < v) << "row " << i << " target " << target[i] << " of " << v;
      if (target[i] >= 0) sum += lse[i] - static_cast<double>(x.data<T>()[i * v + target[i]]);
    }
  });
  tape.arena().Rewind(mark);
  *loss.data<double>() = sum;
  const Var y = tape.Record(loss, {logits});
  tape.OnBackward(y, [logits, y, statistics, target, n, v](Tape& tape) {
    const TraceSpan span("cross entropy backward");
    const double g = *tape.gradient(y).data<double>();
    DispatchFloat(statistics.dtype(), [&](auto t) {
      using T = decltype(t);
      const Tape::GradientTarget d_logits = tape.gradient_target(logits);
      const cpu::LogSumExpGradient<T> args{tape.value(logits).data<T>(), statistics.data<T>(), d_logits.tensor.data<T>(), v};
      for (int64_t i = 0; i < n; ++i) {
        if (!d_logits.accumulate) std::fill_n(args.dx + i * v, v, T(0));
        if (target[i] < 0) continue;
        cpu::LogSumExpBackwardRow(args, i, static_cast<T>(g));
        args.dx[i * v + target[i]] -= static_cast<T>(g);
      }
    });
  });
  return y;
}

}  // namespace conclave
