// A labelled source for tests: points of two classes in [0, 1]^width.
#ifndef CONCLAVE_TESTS_TRAINER_LABELLED_POINTS_H_
#define CONCLAVE_TESTS_TRAINER_LABELLED_POINTS_H_

#include <algorithm>

#include "base/rng.h"
#include "data/source.h"

namespace conclave {

// Of class 1 where the first coordinate is above the second.
class LabelledPoints : public Source {
 public:
  explicit LabelledPoints(int64_t width) : width_(width) {}
  SampleShape shape() const override { return {SampleShape::Kind::kLabelled, width_}; }
  int64_t size() const override { return 4096; }
  double At(int64_t sample, int64_t j) const {
    return std::clamp(1.2 * RngKey{.seed = 5}.UniformDouble(static_cast<uint64_t>(sample * width_ + j)) - 0.1, 0.0, 1.0);
  }
  int ClassOf(int64_t sample) const { return At(sample, 0) > At(sample, 1) ? 1 : 0; }
  absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
    DispatchFloat(batch->features.dtype(), [&](auto t) {
      using T = decltype(t);
      for (int64_t j = 0; j < width_; ++j) batch->features.data<T>()[row * width_ + j] = static_cast<T>(At(sample, j));
    });
    batch->targets.data<int32_t>()[row] = ClassOf(sample);
    ++batch->count;
    return absl::OkStatus();
  }

 private:
  int64_t width_;
};

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_LABELLED_POINTS_H_
