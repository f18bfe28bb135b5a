// Other views of the same elements: Reshape and SliceRows, without a copy.
#include "tensor/ops/ops.h"

#include <array>

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

}  // namespace conclave
