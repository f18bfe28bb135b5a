// Dense matrix products. f32, where the weights are not narrow: by the matrix unit from three bf16 parts a number, or else by AVX-512
// (kernels/chain_product.h); by oneDNN elsewhere, as for bf16 (row tiles, so that a row's bits do not depend on its neighbours). f64:
// blocks of our own (a BLAS chooses its kernels by the number of rows).
#ifndef CONCLAVE_TENSOR_PRODUCTS_H_
#define CONCLAVE_TENSOR_PRODUCTS_H_

#include <cstdint>

#include "tensor/precision.h"
#include "tensor/tensor.h"

namespace conclave {

// One compute thread for every product of this process and thread (library thread pools included). Call once in each rank thread before any
// product; the first f32 product of a thread does it otherwise.
void UseOneComputeThread();

// Whether products of kBf16 are made of operands in two bytes, by AMX or AVX-512 BF16. Elsewhere, and where that is slower, those of f32
// are made of rounded floats: as fast as f32, less what rounding costs.
bool Bf16ProductsAreNarrow();

// Whether this CPU makes f32 products of kFull with weights [out, in] from three bf16 parts a number: it has AMX, and the weights fill its
// registers well enough. The number of rows is never asked for.
bool ProductsAreSplit(int64_t in, int64_t out);

// y = x w^T (+ bias), or y += with accumulate. x: [n, in], w: [out, in], bias: [out] or undefined; y: [n, out]. f32 or f64. n may be 0.
// Every row of y has the same bits whatever n is and wherever the row stands. Cost: 2 n in out FLOP; in f32 the first product of a shape
// makes its kernels (0.1 to 0.3 ms each, at most 16 a shape and thread).
struct ProductOptions {
  bool accumulate = false;
  ProductPrecision precision = ProductPrecision::kFull;
  // Called as done(context, begin, rows) as soon as rows [begin, begin + rows) of y are final, in order, while they are in the cache; with
  // it tiles are at most kRowsAtOnce high. Products over rows (ProductNT, ProductNN) only. Null: never.
  void (*done)(void* context, int64_t begin, int64_t rows) = nullptr;
  void* context = nullptr;
  static constexpr int64_t kRowsAtOnce = 128;
};
// For a callable that outlives the product: options.done(begin, rows).
template <typename F>
ProductOptions AfterRows(const F& done, ProductPrecision precision = ProductPrecision::kFull) {
  return {.precision = precision,
          .done = [](void* f, int64_t begin, int64_t rows) { (*static_cast<const F*>(f))(begin, rows); },
          .context = const_cast<F*>(&done)};
}
void ProductNT(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y, const ProductOptions& options = {});

// y = x w, or y += : x: [n, out], w: [out, in]; y: [n, in] (input gradients). Row-independent like ProductNT.
void ProductNN(const Tensor& x, const Tensor& w, const Tensor& y, const ProductOptions& options = {});

// w = d^T x, or w += : d: [n, out], x: [n, in]; w: [out, in] (weight gradients). Rows are summed in a fixed order that depends on n, in,
// out only. n = 0 writes zeros.
void ProductTN(const Tensor& d, const Tensor& x, const Tensor& w, const ProductOptions& options = {});

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_PRODUCTS_H_
