// What the libraries make of a step's matrix products: the ceiling that a training step is compared with.
#ifndef CONCLAVE_BENCH_LIBRARY_RATES_H_
#define CONCLAVE_BENCH_LIBRARY_RATES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "bench/measure.h"
#include "tensor/products_tile.h"

namespace conclave {

// An f32 product of one of the three kinds: 2 rows in out FLOP.
struct LibraryProduct {
  ProductKind kind = ProductKind::kNT;
  int64_t rows = 0, in = 0, out = 0;
  double flop() const { return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out); }
};

// Every product in each library on the calling thread: oneDNN with operands as they lie, oneDNN with the second operand packed beforehand
// (packing is not timed), OpenBLAS. Operands stay in the caches from call to call, so the rates are what the core can do.
class LibraryRates {
 public:
  // rows, in, out >= 1.
  explicit LibraryRates(const std::vector<LibraryProduct>& products);
  ~LibraryRates();

  // One timing of each product in each library, about `sample_seconds` long. To be called in turn with what the rates are compared with.
  void Sample(double sample_seconds = 1.5e-3);

  // Seconds of one product i in its best library, over all samples: what slows the machine for a while slows the mean of everything that
  // is measured in turn. Sample was called.
  Moment Best(size_t i) const;

 private:
  class Candidates;
  std::vector<std::unique_ptr<Candidates>> candidates_;
};

}  // namespace conclave

#endif  // CONCLAVE_BENCH_LIBRARY_RATES_H_
