// Masks that keep one coordinate of every `size` consecutive ones, each with the same probability: a random word serves `size` coordinates,
// and what is kept is found without looking at the rest.
#ifndef CONCLAVE_COMM_STRATA_H_
#define CONCLAVE_COMM_STRATA_H_

#include <cstdint>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace conclave {

inline constexpr int64_t kLargestStratum = 1 << 23;  // positions among 128 strata have 31 bits

// Of coordinates g size .. g size + size - 1 number (offset + floor(w_g size / 2^32)) mod size is kept, w_g the word first_word + g of the
// draws. In the last stratum it may lie behind the vector: then nothing is kept, and +0 stands in its place.
struct Strata {
  int64_t elements = 0, size = 1, offset = 0;
  RngKey draws;
  uint64_t first_word = 0;
  int64_t count() const { return (elements + size - 1) / size; }
};

// kept = scale * the kept coordinates of x. x: [elements], kept: [count], f32 or f64. Cost: reads the lines that hold kept ones. No
// allocation.
void GatherKept(const Strata& strata, const Tensor& x, double scale, const Tensor& kept);

// x = zeros but for the kept ones. Cost: writes x once.
void ScatterKept(const Strata& strata, const Tensor& kept, const Tensor& x);

}  // namespace conclave

#endif  // CONCLAVE_COMM_STRATA_H_
