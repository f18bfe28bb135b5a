#include "models/modules/accuracy.h"

#include <algorithm>

namespace conclave {

int64_t CountRight(const Tensor& scores, const Tensor& targets) {
  return DispatchFloat(scores.dtype(), [&](auto t) {
    using T = decltype(t);
    int64_t right = 0;
    for (int64_t row = 0; row < scores.dim(0); ++row) {
      const int32_t target = targets.data<int32_t>()[row];
      if (target < 0) continue;
      const std::span<T> own = scores.Slice(row, 1).template span<T>();
      right += std::ranges::max_element(own) - own.begin() == target;
    }
    return right;
  });
}

}  // namespace conclave
