// NumPy's .npy files of integers: read from bytes, written to bytes.
#ifndef CONCLAVE_PARALLEL_NPY_H_
#define CONCLAVE_PARALLEL_NPY_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace conclave {

struct IntegerArray {
  std::vector<int64_t> shape;
  std::vector<int32_t> values;  // row-major
};

// Versions 1.0 to 3.0, C order, little-endian signed or unsigned integers of 1, 2, 4 or 8 bytes whose values fit int32; exactly as many
// bytes as the shape asks for. Errors: InvalidArgument saying what was expected and found. Source: NumPy enhancement proposal 1.
absl::StatusOr<IntegerArray> ParseNpy(std::string_view bytes);
// Version 1.0, dtype <i4.
std::string RenderNpy(std::span<const int64_t> shape, std::span<const int32_t> values);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_NPY_H_
