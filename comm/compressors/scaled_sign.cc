// Scaled sign: C(x) = (|x|_1 / d) sign(x), sign(0) = 1. |C(x) - x|^2 = |x|^2 - |x|_1^2 / d: contractive with delta = d |x|^2 / |x|_1^2 <=
// d, which is what the contract declares; for values of like size delta is near 1. Wire: the mean magnitude as f32, then d signs, 8 a byte.
#include <cmath>
#include <cstring>

#include "base/simd.h"
#include "comm/compressors.h"
#include "comm/fixed_lanes.h"

namespace conclave {
namespace {

template <typename T>
CONCLAVE_INLINE void PackLoop(const T* x, uint8_t* signs, int64_t n) {
  const int64_t whole = n / 8;
  for (int64_t j = 0; j < whole; ++j) {
    uint32_t byte = 0;
    for (int b = 0; b < 8; ++b) byte |= static_cast<uint32_t>(x[8 * j + b] < 0) << b;
    signs[j] = static_cast<uint8_t>(byte);
  }
  if (n % 8 == 0) return;
  uint32_t byte = 0;
  for (int64_t i = whole * 8; i < n; ++i) byte |= static_cast<uint32_t>(x[i] < 0) << (i % 8);
  signs[whole] = static_cast<uint8_t>(byte);
}
CONCLAVE_SIMD void Pack(const float* x, uint8_t* signs, int64_t n) { PackLoop(x, signs, n); }
CONCLAVE_SIMD void Pack(const double* x, uint8_t* signs, int64_t n) { PackLoop(x, signs, n); }

class ScaledSignCodec final : public Compressor {
 public:
  explicit ScaledSignCodec(const CompressorContext& context)
      : d_(context.shape.elements()), dtype_(context.dtype), bytes_(4 + (d_ + 7) / 8) {}

  CodecContract Contract() const override {
    return {.unbiased = false, .delta = static_cast<double>(std::max<int64_t>(d_, 1)), .wire_bits = 32 + d_};
  }
  int64_t MaxWireBytes() const override { return bytes_; }

  int64_t Encode(const Tensor& x, const CodecKey&, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    const auto mean = static_cast<float>(SumOfMagnitudes(x) / static_cast<double>(std::max<int64_t>(d_, 1)));
    if (std::isinf(mean)) return kBeyondRange;
    std::memcpy(wire.data(), &mean, sizeof(mean));
    auto* const signs = reinterpret_cast<uint8_t*>(wire.data() + 4);
    DispatchFloat(dtype_, [&](auto t) { Pack(x.data<decltype(t)>(), signs, d_); });
    return bytes_;
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != bytes_) return WrongLength("scaled_sign", key, bytes_, wire.size());
    float mean;
    std::memcpy(&mean, wire.data(), sizeof(mean));
    if (!(mean >= 0) || std::isinf(mean)) return Malformed("scaled_sign", key, "its magnitude is negative or not finite");
    const auto* const signs = reinterpret_cast<const uint8_t*>(wire.data() + 4);
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      T* const out = x.data<T>();
      const T values[2] = {static_cast<T>(mean), static_cast<T>(mean > 0 ? -mean : 0)};
      for (int64_t i = 0; i < d_; ++i) out[i] = values[(signs[i / 8] >> (i % 8)) & 1];
    });
    return absl::OkStatus();
  }

 private:
  const int64_t d_;
  const DType dtype_;
  const int64_t bytes_;
};

}  // namespace

CompressorOr MakeScaledSignCodec(const ScaledSignConfig&, const CompressorContext& context) {
  return std::make_unique<ScaledSignCodec>(context);
}

}  // namespace conclave
