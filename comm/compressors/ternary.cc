// Ternary (TernGrad, Wen et al., arXiv 1705.07878): x_i becomes sign(x_i) max|x| with probability |x_i| / max|x|, else 0. E Q(x) = x and
// E |Q(x)|^2 = max|x| * sum |x_i| <= (1 + sqrt(d)) / 2 * |x|^2, reached where one coordinate is 1 and the others are 1 / (1 + sqrt(d)).
// Wire: max|x| as f32, rounded up; then five trits a byte, the first one the lowest in base 3 (0: zero, 1: plus, 2: minus).
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/simd.h"
#include "comm/codec_draws.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

constexpr int64_t kTrits = 5, kPowers = 243;
constexpr int64_t kTernaryChunk = 1280;  // values: whole groups of draws and of trits

constexpr std::array<std::array<int8_t, kTrits>, kPowers> Unpacked() {
  std::array<std::array<int8_t, kTrits>, kPowers> table{};
  for (int64_t byte = 0; byte < kPowers; ++byte) {
    int64_t rest = byte;
    for (int64_t i = 0; i < kTrits; ++i, rest /= 3) table[byte][i] = static_cast<int8_t>(rest % 3 == 2 ? -1 : rest % 3);
  }
  return table;
}
constexpr std::array<std::array<int8_t, kTrits>, kPowers> kUnpacked = Unpacked();

template <typename T>
CONCLAVE_INLINE void RoundLoop(const T* x, double unit, const uint32_t* draws, uint8_t* trits, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double v = static_cast<double>(x[i]) * unit;  // in units of 2^-30 max|x|
    const auto chance = static_cast<int32_t>(v < 0 ? -v : v);
    const int taken = static_cast<int32_t>(draws[i] >> 2) < chance ? 1 : 0;
    trits[i] = static_cast<uint8_t>(v < 0 ? 2 * taken : taken);
  }
}
CONCLAVE_SIMD void Round(const float* x, double unit, const uint32_t* draws, uint8_t* trits, int64_t n) {
  RoundLoop(x, unit, draws, trits, n);
}
CONCLAVE_SIMD void Round(const double* x, double unit, const uint32_t* draws, uint8_t* trits, int64_t n) {
  RoundLoop(x, unit, draws, trits, n);
}

class TernaryCodec final : public Compressor {
 public:
  explicit TernaryCodec(const CompressorContext& context)
      : d_(context.shape.elements()), dtype_(context.dtype), bytes_(4 + (d_ + kTrits - 1) / kTrits) {}

  CodecContract Contract() const override {
    return {.unbiased = true, .q = (1 + std::sqrt(static_cast<double>(std::max<int64_t>(d_, 1)))) / 2, .wire_bits = 8 * bytes_};
  }
  int64_t MaxWireBytes() const override { return bytes_; }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    return DispatchFloat(dtype_, [&](auto t) { return EncodeAs(x.data<decltype(t)>(), key, wire); });
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != bytes_) return WrongLength("ternary", key, bytes_, wire.size());
    float largest;
    std::memcpy(&largest, wire.data(), sizeof(largest));
    if (!(largest >= 0) || std::isinf(largest)) return Malformed("ternary", key, "its magnitude is negative or not finite");
    return DispatchFloat(dtype_, [&](auto t) -> absl::Status {
      using T = decltype(t);
      T* const out = x.data<T>();
      for (int64_t i = 0; i < d_; i += kTrits) {
        const auto byte = std::to_integer<uint8_t>(wire[static_cast<size_t>(4 + i / kTrits)]);
        if (byte >= kPowers) return Malformed("ternary", key, "a byte is no five trits");
        for (int64_t j = 0; j < std::min(kTrits, d_ - i); ++j) out[i + j] = static_cast<T>(largest) * kUnpacked[byte][j] + T{0};
      }
      return absl::OkStatus();
    });
  }

 private:
  template <typename T>
  int64_t EncodeAs(const T* x, const CodecKey& key, std::span<std::byte> wire) const {
    T exact = 0;
    for (int64_t i = 0; i < d_; ++i) exact = std::max(exact, std::abs(x[i]));
    float largest = static_cast<float>(exact);
    if (static_cast<double>(largest) < static_cast<double>(exact)) largest = std::nextafter(largest, INFINITY);
    if (std::isinf(largest)) return kBeyondRange;
    std::memcpy(wire.data(), &largest, sizeof(largest));
    const double unit = largest > 0 ? 0x1p30 / static_cast<double>(largest) : 0;
    std::array<uint32_t, kTernaryChunk> draws;
    std::array<uint8_t, kTernaryChunk> trits;
    std::byte* out = wire.data() + 4;
    for (int64_t first = 0; first < d_; first += kTernaryChunk) {
      const int64_t n = std::min(kTernaryChunk, d_ - first);
      FillRoundingDraws(key, first, std::span(draws).first(static_cast<size_t>(n)));
      Round(x + first, unit, draws.data(), trits.data(), n);
      std::fill(trits.begin() + n, trits.begin() + (n + kTrits - 1) / kTrits * kTrits, uint8_t{0});
      for (int64_t i = 0; i < n; i += kTrits) {
        *out++ = static_cast<std::byte>(trits[i] + 3 * trits[i + 1] + 9 * trits[i + 2] + 27 * trits[i + 3] + 81 * trits[i + 4]);
      }
    }
    return bytes_;
  }

  const int64_t d_;
  const DType dtype_;
  const int64_t bytes_;
};

}  // namespace

CompressorOr MakeTernaryCodec(const TernaryConfig&, const CompressorContext& context) { return std::make_unique<TernaryCodec>(context); }

}  // namespace conclave
