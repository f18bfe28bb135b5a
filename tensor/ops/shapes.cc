// Other views of the same elements: Reshape, SliceRows (no copy) and ConcatRows.
#include "tensor/ops/ops.h"

#include <array>
#include <memory>

#include "tensor/kernels/unary.h"

namespace conclave {
namespace {

// The shape with another size of dim 0.
Shape WithRows(const Shape& shape, int64_t rows) {
  std::array<int64_t, Shape::kMaxDims> dims{rows};
  for (int i = 1; i < shape.dims(); ++i) dims[i] = shape[i];
  return Shape(std::span<const int64_t>(dims.data(), shape.dims()));
}

}  // namespace

Var Reshape(Tape& tape, Var x, const Shape& shape) {
  CHECK_EQ(tape.value(x).elements(), shape.elements()) << tape.value(x).shape().ToString() << " to " << shape.ToString();
  return tape.View(x, 0, shape);
}

Var SliceRows(Tape& tape, Var x, int64_t begin, int64_t count) {
  const Shape shape = tape.value(x).shape();
  CHECK(shape.dims() > 0 && begin >= 0 && count >= 0 && begin + count <= shape[0]) << begin << '+' << count << " of " << shape.ToString();
  return tape.View(x, begin * WithRows(shape, 1).elements(), WithRows(shape, count));
}

Var ConcatRows(Tape& tape, std::span<const Var> parts) {
  CHECK(!parts.empty());
  const Tensor first = tape.value(parts[0]);
  int64_t rows = 0;
  for (const Var part : parts) {
    const Tensor& x = tape.value(part);
    CHECK(x.dtype() == first.dtype() && WithRows(x.shape(), 0) == WithRows(first.shape(), 0))
        << x.shape().ToString() << " after " << first.shape().ToString();
    rows += x.dim(0);
  }
  const Tensor out = tape.arena().New(WithRows(first.shape(), rows), first.dtype());
  Var* kept = static_cast<Var*>(tape.arena().Allocate(static_cast<int64_t>(parts.size_bytes())));
  std::uninitialized_copy(parts.begin(), parts.end(), kept);
  int64_t begin = 0;
  for (const Var part : parts) {
    const Tensor& x = tape.value(part);
    out.Slice(begin, x.dim(0)).CopyFrom(x);
    begin += x.dim(0);
  }
  const Var y = tape.Record(out, parts);
  tape.OnBackward(y, [kept, count = parts.size(), y](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      const T* from = dy.data<T>();
      for (const Var part : std::span<const Var>(kept, count)) {
        const int64_t n = tape.value(part).elements();
        if (tape.wants_gradient(part)) cpu::AddTo(from, tape.gradient(part).data<T>(), n);
        from += n;
      }
    });
  });
  return y;
}

}  // namespace conclave
