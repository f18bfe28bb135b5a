#include "tensor/product_tally.h"

namespace conclave {

constinit thread_local ProductTally* ProductTally::current_ = nullptr;

ProductTally::ProductTally() : outer_(current_) { current_ = this; }

ProductTally::~ProductTally() { current_ = outer_; }

void ProductTally::Add(const Shape& shape, int64_t rows, double seconds) {
  Total& total = totals_[shape];
  ++total.calls;
  total.rows += rows;
  total.seconds += seconds;
}

}  // namespace conclave
