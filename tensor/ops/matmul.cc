// c[b] = op(a[b]) op(b[b]), batched.
#include "tensor/kernels/linear_blocks.h"
#include "tensor/ops/ops.h"

namespace conclave {
namespace {

// A factor as the product sees it: `rows` x `columns` after the transposition, with the strides of its memory.
struct Factor {
  Tensor data;
  int64_t rows, columns, row_stride, column_stride;
  Factor Transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

Factor View(const Tensor& x, bool transpose) {
  const Factor plain{x, x.dim(-2), x.dim(-1), x.dim(-1), 1};
  return transpose ? plain.Transposed() : plain;
}

// c = a b for each of `batch`, or += . c is row-major [batch, a.rows, b.columns].
void Multiply(const Factor& a, const Factor& b, const Tensor& c, int64_t batch, bool accumulate) {
  DispatchFloat(c.dtype(), [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < batch; ++i) {
      cpu::BlockProduct(cpu::BlockOperands<T>{a.data.data<T>() + i * a.rows * a.columns, a.row_stride, a.column_stride,
                                              b.data.data<T>() + i * b.rows * b.columns, b.row_stride, b.column_stride,
                                              c.data<T>() + i * a.rows * b.columns, b.columns, a.rows, b.columns, a.columns, accumulate});
    }
  });
}

}  // namespace

// With A = op(a), B = op(b): dA += dC B^T, dB += A^T dC; a transposed factor gets the transposed product.
Var MatMul(Tape& tape, Var a, Var b, const MatMulOptions& options) {
  const Tensor x = tape.value(a), y = tape.value(b);
  const int dims = x.shape().dims();
  CHECK((dims == 2 || dims == 3) && y.shape().dims() == dims) << x.shape().ToString() << ' ' << y.shape().ToString();
  const int64_t batch = dims == 3 ? x.dim(0) : 1;
  const Factor left = View(x, options.transpose_a), right = View(y, options.transpose_b);
  CHECK(left.columns == right.rows && (dims == 2 || y.dim(0) == batch)) << x.shape().ToString() << ' ' << y.shape().ToString();
  const Shape shape = dims == 3 ? Shape{batch, left.rows, right.columns} : Shape{left.rows, right.columns};
  const Tensor out = tape.arena().New(shape, x.dtype());
  Multiply(left, right, out, batch, false);

  const Var c = tape.Record(out, {a, b});
  tape.OnBackward(c, [a, b, c, options, batch](Tape& tape) {
    const Factor left = View(tape.value(a), options.transpose_a), right = View(tape.value(b), options.transpose_b);
    const Factor d = View(tape.gradient(c), false);
    if (tape.wants_gradient(a)) {
      const Tensor da = tape.gradient(a);
      if (options.transpose_a) {
        Multiply(right, d.Transposed(), da, batch, true);  // [k, n] [n, m]
      } else {
        Multiply(d, right.Transposed(), da, batch, true);  // [m, n] [n, k]
      }
    }
    if (tape.wants_gradient(b)) {
      const Tensor db = tape.gradient(b);
      if (options.transpose_b) {
        Multiply(d.Transposed(), left, db, batch, true);  // [n, m] [m, k]
      } else {
        Multiply(left.Transposed(), d, db, batch, true);  // [k, m] [m, n]
      }
    }
  });
  return c;
}

}  // namespace conclave
