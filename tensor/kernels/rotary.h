// Rotation of pairs by an angle that grows with the position.
#ifndef CONCLAVE_TENSOR_KERNELS_ROTARY_H_
#define CONCLAVE_TENSOR_KERNELS_ROTARY_H_

#include <cstdint>

namespace conclave::cpu {

// table: [length, 2, half] = cos | sin of position * theta^(-i / half). Angles are formed in double whatever the table's type; an entry
// depends on its position alone. Cost: about half * (length / 32 + 32) calls of sin and cos.
template <typename T>
void RotaryTable(double theta, int64_t length, int64_t half, T* table);

// The first `rotated` columns of each row are heads of 2 * half columns, whose pairs (i, i + half) turn by the angle of position row %
// length, or back by it (inverse); the other columns pass. y = that, or y += with accumulate.
template <typename T>
struct RotaryArgs {
  const T* x;  // [n, width]
  T* y;        // [n, width]
  const T* table;
  int64_t n, width, rotated, half, length;
  bool inverse = false;
  bool accumulate = false;
};
void Rotate(const RotaryArgs<float>& args);
void Rotate(const RotaryArgs<double>& args);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_ROTARY_H_
