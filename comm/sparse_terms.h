// Sparse vectors on the wire and their sums: the coordinates of a block that a worker, or a sum, has something to say about.
#ifndef CONCLAVE_COMM_SPARSE_TERMS_H_
#define CONCLAVE_COMM_SPARSE_TERMS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "comm/compressor.h"
#include "tensor/tensor.h"

namespace conclave {

struct SparseTerm {
  int64_t index = 0;
  double value = 0;  // an f32 or f64 number, as the vector's dtype is
};
using SparseTerms = std::vector<SparseTerm>;  // ascending by index, each once

// The parameter of the Golomb-Rice code with the fewest expected bits for gaps of a set that holds each index with probability `density`.
int RiceParameter(double density);

// A run of terms whose indices lie in first .. first + elements - 1: their number (u32), the gaps in Golomb-Rice code with the parameter
// for their density, from the next byte on the values.
struct SparseRange {
  int64_t first = 0, elements = 0;
  DType dtype = DType::kF32;
};
int64_t MostSparseBytes(int64_t terms, int64_t elements, DType dtype);  // of a run of at most so many
// wire: MostSparseBytes long. Returns the bytes written.
int64_t EncodeSparse(const SparseRange& range, std::span<const SparseTerm> terms, std::span<std::byte> wire);
// Appends to `terms`; at most `most`. Errors: DataLoss for what no encoder writes.
absl::Status DecodeSparse(const SparseRange& range, std::span<const std::byte> wire, const CodecKey& key, int64_t most, SparseTerms& terms);

// out = a + b, added as the dtype does. No allocation where out has room.
void AddTerms(DType dtype, std::span<const SparseTerm> a, std::span<const SparseTerm> b, SparseTerms& out);

// The magnitude of rank `count` among the terms, the largest first: 0 where there are fewer. Reorders.
double MagnitudeOfRank(std::span<double> magnitudes, int64_t count);

}  // namespace conclave

#endif  // CONCLAVE_COMM_SPARSE_TERMS_H_
