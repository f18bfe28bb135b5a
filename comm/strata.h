// Masks that keep one coordinate of every `size` consecutive ones, each with the same probability: a random word serves `size` coordinates,
// and what is kept is found without looking at the rest.
#ifndef CONCLAVE_COMM_STRATA_H_
#define CONCLAVE_COMM_STRATA_H_

#include <cstddef>
#include <cstdint>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace conclave {

inline constexpr int64_t kLargestStratum = 1 << 23;  // positions among 128 strata have 31 bits

// Of coordinates g size .. g size + size - 1 number (offset + u_g) mod size is kept, u_g a digit to the base `size` of a word of the draws.
// A word has 4 digits up to size 16, 2 up to 256, else one, so that together they take half of its bits: w gives floor(w size / 2^32)
// first, then the same of what is left, w size mod 2^32. Of 128 D consecutive strata, D digits a word, the first 128 have the first digits
// of the next 128 words, the next 128 their second digits. In the last stratum the kept one may lie behind the vector: then nothing is
// kept, and +0 stands in its place.
struct Strata {
  int64_t elements = 0, size = 1, offset = 0;
  RngKey draws;
  uint64_t first_word = 0;
  int64_t count() const { return (elements + size - 1) / size; }
};

// kept = scale * the kept coordinates of x. x: [elements], f32 or f64; kept: room for `count` of its values, at any address. Cost: reads
// the lines that hold kept ones. No allocation.
void GatherKept(const Strata& strata, const Tensor& x, double scale, std::byte* kept);

// x = zeros but for the kept ones; never -0. Cost: writes x once.
void ScatterKept(const Strata& strata, const std::byte* kept, const Tensor& x);

}  // namespace conclave

#endif  // CONCLAVE_COMM_STRATA_H_
