#include "tensor/ops/ops.h"

#include <cmath>

namespace conclave {
namespace {

// NaN loses against every number, so that a row with NaN still has an order.
template <typename T>
bool Beats(T a, T b) {
  return a > b || (std::isnan(b) && !std::isnan(a));
}

// Insertion into the list of the best so far. Candidates come in ascending order and must beat an entry to pass it, so ties keep the lower
// index first.
template <typename T>
void TopKRow(const T* scores, int64_t e, int k, int32_t* ids) {
  int found = 0;
  for (int64_t candidate = 0; candidate < e; ++candidate) {
    int place = found;
    while (place > 0 && Beats(scores[candidate], scores[ids[place - 1]])) --place;
    if (place == k) continue;
    found = found < k ? found + 1 : k;
    for (int j = found - 1; j > place; --j) ids[j] = ids[j - 1];
    ids[place] = static_cast<int32_t>(candidate);
  }
}

}  // namespace

void TopK(const Tensor& scores, int k, const Tensor& ids) {
  CHECK(scores.shape().dims() == 2 && k >= 0 && k <= scores.dim(1)) << scores.shape().ToString() << " k " << k;
  CHECK_EQ(ids.elements(), scores.dim(0) * k);
  const int64_t e = scores.dim(1);
  int32_t* out = ids.data<int32_t>();
  DispatchFloat(scores.dtype(), [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < scores.dim(0); ++i) TopKRow(scores.data<T>() + i * e, e, k, out + i * k);
  });
}

}  // namespace conclave
