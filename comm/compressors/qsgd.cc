// QSGD (Alistarh et al., arXiv 1610.02132): |x_i| becomes |x| l / s, l one of the two integers around s |x_i| / |x|, drawn without bias.
// q = 1 + min(d / s^2, sqrt(d) / s).
// Wire: |x| as f32, rounded up; then each l in Golomb-Rice code, followed by a sign where l > 0. The code's parameter is made for a typical
// l of s / sqrt(d). As sum l <= s sqrt(d) + d, a message has a longest length; its true one varies.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "comm/bit_stream.h"
#include "comm/codec_draws.h"
#include "comm/compressors.h"
#include "comm/fixed_lanes.h"

namespace conclave {
namespace {

constexpr int64_t kChunk = 1024;

class QsgdCodec final : public Compressor {
 public:
  QsgdCodec(int64_t levels, const CompressorContext& context)
      : d_(context.shape.elements()), levels_(levels), root_(std::sqrt(static_cast<double>(d_))), dtype_(context.dtype) {
    const double typical = 0.55 * static_cast<double>(levels_) / std::max(root_, 1.0);
    rice_ = std::max(0, static_cast<int>(std::lround(std::log2(typical))));
    const double sum = static_cast<double>(levels_) * root_ * (1 + 0x1p-20) + static_cast<double>(d_);
    wire_bits_ = 32 + d_ * (rice_ + 2) + static_cast<int64_t>(std::ldexp(sum, -rice_));
  }

  CodecContract Contract() const override {
    const double s = static_cast<double>(levels_), d = static_cast<double>(d_);
    return {.unbiased = true, .q = 1 + std::min(d / (s * s), root_ / s), .wire_bits = wire_bits_, .fixed_size = false};
  }
  int64_t MaxWireBytes() const override { return (wire_bits_ + 7) / 8; }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    const double exact = std::sqrt(F32SumOfSquares(x)) * (1 + 0x1p-24);
    auto norm = static_cast<float>(exact);
    if (static_cast<double>(norm) < exact) norm = std::nextafter(norm, INFINITY);
    if (std::isinf(norm)) return kBeyondRange;
    std::memcpy(wire.data(), &norm, sizeof(norm));
    const double unit = norm > 0 ? static_cast<double>(levels_) * 0x1p32 / static_cast<double>(norm) : 0;
    BitWriter bits(wire.data() + 4);
    DispatchFloat(dtype_, [&](auto t) {
      const auto* const values = x.data<decltype(t)>();
      std::array<uint32_t, kChunk> draws;
      for (int64_t first = 0; first < d_; first += kChunk) {
        const int64_t n = std::min(kChunk, d_ - first);
        FillRoundingDraws(key, first, std::span(draws).first(static_cast<size_t>(n)));
        for (int64_t i = 0; i < n; ++i) {
          const auto v = static_cast<double>(values[first + i]);
          const auto fixed = static_cast<uint64_t>(std::abs(v) * unit);  // 32 bits below the point
          const uint64_t level = std::min((fixed + draws[i]) >> 32, static_cast<uint64_t>(levels_));
          bits.PutRice(level, rice_);
          if (level > 0) bits.Put(v < 0 ? 1 : 0, 1);
        }
      }
    });
    return 4 + bits.Finish();
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (wire.size() < 4 || static_cast<int64_t>(wire.size()) > MaxWireBytes()) {
      return WrongLength("qsgd", key, MaxWireBytes(), wire.size());
    }
    float norm;
    std::memcpy(&norm, wire.data(), sizeof(norm));
    if (!(norm >= 0) || std::isinf(norm)) return Malformed("qsgd", key, "its norm is negative or not finite");
    BitReader bits(wire.subspan(4));
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      T* const out = x.data<T>();
      const T step = static_cast<T>(static_cast<double>(norm) / static_cast<double>(levels_));
      for (int64_t i = 0; i < d_ && !bits.overran(); ++i) {
        const uint64_t level = bits.GetRice(rice_, static_cast<uint64_t>(levels_));
        const bool negative = level > 0 && bits.Get(1) != 0;
        const T magnitude = static_cast<T>(level) * step;
        out[i] = (negative ? -magnitude : magnitude) + T{0};
      }
    });
    if (bits.overran() || bits.bytes() + 4 != static_cast<int64_t>(wire.size())) {
      return Malformed("qsgd", key, "its length does not fit its content");
    }
    return absl::OkStatus();
  }

 private:
  const int64_t d_, levels_;
  const double root_;  // sqrt(d)
  const DType dtype_;
  int rice_ = 0;
  int64_t wire_bits_ = 0;
};

}  // namespace

CompressorOr MakeQsgdCodec(const QsgdConfig& config, const CompressorContext& context) {
  if (config.levels() < 1 || config.levels() > 32767) return InvalidArgument("qsgd: levels must be in [1, 32767], got %d", config.levels());
  return std::make_unique<QsgdCodec>(config.levels(), context);
}

}  // namespace conclave
