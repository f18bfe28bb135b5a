#include "parallel/gumbel_noise.h"

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace conclave {
namespace {

constexpr uint32_t kNoiseLength = 1 << 14;

}  // namespace

const int16_t* GumbelNoise(uint32_t word) {
  static const std::vector<int16_t> noise = [] {
    std::vector<int16_t> values(kNoiseLength + kNoiseRun);
    const RngKey key{.seed = 0, .site = 3, .kind = RngKind::kPlacement};
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<int16_t>(std::lround(kNoiseUnits * -std::log(-std::log(key.UniformDouble(i) + 0x1p-60))));
    }
    return values;
  }();
  return noise.data() + word % kNoiseLength;
}

const int16_t* NoNoise() {
  static constexpr int16_t kNone[kNoiseRun] = {};
  return kNone;
}

}  // namespace conclave
