// ProductTally: which matrix products a thread makes, and the time that it runs in them.
#ifndef CONCLAVE_TENSOR_PRODUCT_TALLY_H_
#define CONCLAVE_TENSOR_PRODUCT_TALLY_H_

#include <compare>
#include <cstdint>
#include <map>

#include "tensor/products_tile.h"

namespace conclave {

// Counts the products (tensor/products.h) of the thread that made it, until it is destroyed there; tallies nest, the innermost counts.
// Without one a product costs one branch more.
class ProductTally {
 public:
  struct Shape {
    ProductKind kind = ProductKind::kNT;
    int64_t in = 0, out = 0;
    auto operator<=>(const Shape&) const = default;
  };
  struct Total {
    int64_t calls = 0, rows = 0;
    double seconds = 0;  // of running (ThreadCpuSeconds); 0: not measured
  };

  ProductTally();
  ~ProductTally();
  ProductTally(const ProductTally&) = delete;
  ProductTally& operator=(const ProductTally&) = delete;

  const std::map<Shape, Total>& totals() const { return totals_; }
  void Clear() { totals_.clear(); }

  // Of the calling thread; null: none.
  static ProductTally* OfThread() { return current_; }
  void Add(const Shape& shape, const Total& more);

 private:
  static thread_local constinit ProductTally* current_;
  ProductTally* const outer_;
  std::map<Shape, Total> totals_;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_PRODUCT_TALLY_H_
