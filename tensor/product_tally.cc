#include "tensor/product_tally.h"

namespace conclave {

constinit thread_local ProductTally* ProductTally::current_ = nullptr;

ProductTally::ProductTally() : outer_(current_) { current_ = this; }

ProductTally::~ProductTally() { current_ = outer_; }

void ProductTally::Add(const Shape& shape, const Total& more) {
  Total& total = totals_[shape];
  total.calls += more.calls;
  total.rows += more.rows;
  total.seconds += more.seconds;
}

}  // namespace conclave
