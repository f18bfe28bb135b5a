// Rows by index: Embedding, GatherRows, ScatterAddRows.
#include "tensor/ops/ops.h"

#include "base/trace.h"
#include "tensor/kernels/rows.h"

namespace conclave {
namespace {

// Indices are our own or validated where they were read; an index out of range here would write over foreign memory.
cpu::RowIndex Index(const Tensor& rows, int64_t h, int64_t low, int64_t limit) {
  const int32_t* data = rows.data<int32_t>();
  for (int64_t i = 0; i < rows.elements(); ++i)
    CHECK(data[i] >= low && data[i] < limit) << "entry " << i << " is " << data[i] << " of " << limit;
  return {data, rows.elements(), h};
}

Var Gather(Tape& tape, Var x, const Tensor& rows, int64_t lowest) {
  const TraceSpan span("rows");
  const Tensor in = tape.value(x);
  CHECK_EQ(in.shape().dims(), 2);
  const cpu::RowIndex index = Index(rows, in.dim(1), lowest, in.dim(0));
  const Tensor out = tape.arena().New({index.count, index.h}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::GatherRows(index, in.data<T>(), out.data<T>());
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, index](Tape& tape) {
    const TraceSpan span("rows backward");
    const Tensor dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::ScatterAddRows(index, dy.data<T>(), dx.data<T>());
    });
  });
  return y;
}

}  // namespace

Var Embedding(Tape& tape, Var table, const Tensor& ids) { return Gather(tape, table, ids, 0); }

Var GatherRows(Tape& tape, Var x, const Tensor& rows) { return Gather(tape, x, rows, -1); }

Var ScatterAddRows(Tape& tape, Var x, const Tensor& rows, int64_t n) {
  const Tensor in = tape.value(x);
  CHECK(in.shape().dims() == 2 && rows.elements() == in.dim(0)) << in.shape().ToString() << ' ' << rows.shape().ToString();
  const cpu::RowIndex index = Index(rows, in.dim(1), -1, n);
  const Tensor out = tape.arena().NewZeroed({n, index.h}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::ScatterAddRows(index, in.data<T>(), out.data<T>());
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, index](Tape& tape) {
    const Tensor dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::GatherAddRows(index, dy.data<T>(), dx.data<T>());
    });
  });
  return y;
}

}  // namespace conclave
