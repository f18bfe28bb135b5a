// Block integers: each block of B coordinates becomes integers of 8 or 4 bits times scale / s, where scale is the block's largest magnitude
// and s = 127 or 7. In units of scale / s, a coordinate is rounded down or up at random without bias (STOCHASTIC), or to the nearest.
//   STOCHASTIC: q = 1 + omega, omega <= min(B / (4 s^2), sqrt(B) / s): a variance of at most 1/4 a coordinate, or of |x_i|, against a block
//     norm of at least s.
//   NEAREST: 1 - 1/delta = (B / 4) / (s^2 + (B - 1) / 4), reached by one coordinate of size s and B - 1 of size 1/2.
// Scales are bfloat16 rounded up, so that the largest entry is never cut; s is reduced by that factor, at most 1 + 2^-7, in both constants.
// (Half floats take as many bits, but leave no range: gradients pass below 2^-24 while a run converges.)
// Wire: ceil(d / B) scales of 16 bits, then the integers in two's complement, the earlier one in the low half of a byte.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/float16.h"
#include "base/simd.h"
#include "comm/codec_draws.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

constexpr int64_t kBlockChunk = 1024;
constexpr int kFractionBits = 23;  // of the fixed-point numbers that are rounded: 127 * 2^23 < 2^31
constexpr uint16_t kInfiniteBf16 = 0x7F80;

CONCLAVE_SIMD float Largest(const float* x, int64_t n) {
  uint32_t largest = 0;  // magnitudes of finite numbers are ordered like their bits
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFF);
  return std::bit_cast<float>(largest);
}
CONCLAVE_SIMD double Largest(const double* x, int64_t n) {
  uint64_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint64_t>(x[i]) & 0x7FFFFFFFFFFFFFFF);
  return std::bit_cast<double>(largest);
}

// The least bfloat16 number not below x >= 0; infinity beyond the largest.
uint16_t RoundUpToBf16(double x) {
  float f = static_cast<float>(x);
  if (static_cast<double>(f) < x) f = std::nextafter(f, INFINITY);
  return static_cast<uint16_t>(std::min<uint64_t>((uint64_t{std::bit_cast<uint32_t>(f)} + 0xFFFF) >> 16, kInfiniteBf16));
}

// unit: s 2^23 / scale, in float or double. draws: 32 bits a value, only their upper 23 count; kHalf for the nearest.
template <typename T, typename Unit>
CONCLAVE_INLINE void RoundLoop(const T* x, Unit unit, int32_t s, const uint32_t* draws, int8_t* levels, int64_t n) {
  const int32_t most = s << kFractionBits;
  for (int64_t i = 0; i < n; ++i) {
    const auto fixed = static_cast<int32_t>(static_cast<Unit>(x[i]) * unit);
    const int32_t bounded = std::min(std::max(fixed, -most), most);
    levels[i] = static_cast<int8_t>((bounded + static_cast<int32_t>(draws[i] >> 9)) >> kFractionBits);
  }
}
CONCLAVE_SIMD void Round(const float* x, float unit, int32_t s, const uint32_t* draws, int8_t* levels, int64_t n) {
  RoundLoop(x, unit, s, draws, levels, n);
}
CONCLAVE_SIMD void Round(const float* x, double unit, int32_t s, const uint32_t* draws, int8_t* levels, int64_t n) {
  RoundLoop(x, unit, s, draws, levels, n);
}
CONCLAVE_SIMD void Round(const double* x, double unit, int32_t s, const uint32_t* draws, int8_t* levels, int64_t n) {
  RoundLoop(x, unit, s, draws, levels, n);
}

void RoundBlock(const float* x, double unit, int32_t s, const uint32_t* draws, int8_t* levels, int64_t n) {
  // A tiny scale overflows a float unit.
  if (unit < 0x1p100) return Round(x, static_cast<float>(unit), s, draws, levels, n);
  Round(x, unit, s, draws, levels, n);
}
void RoundBlock(const double* x, double unit, int32_t s, const uint32_t* draws, int8_t* levels, int64_t n) {
  Round(x, unit, s, draws, levels, n);
}

template <typename T>
CONCLAVE_INLINE void ExpandLoop(const int8_t* levels, T step, T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<T>(levels[i]) * step;
}
CONCLAVE_SIMD void Expand(const int8_t* levels, float step, float* x, int64_t n) { ExpandLoop(levels, step, x, n); }
CONCLAVE_SIMD void Expand(const int8_t* levels, double step, double* x, int64_t n) { ExpandLoop(levels, step, x, n); }

CONCLAVE_SIMD void PackHalves(const int8_t* levels, uint8_t* bytes, int64_t n) {
  for (int64_t j = 0; j < n; ++j) bytes[j] = static_cast<uint8_t>((levels[2 * j] & 0xF) | (levels[2 * j + 1] << 4));
}
CONCLAVE_SIMD void UnpackHalves(const uint8_t* bytes, int8_t* levels, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    levels[2 * j] = static_cast<int8_t>(static_cast<int8_t>(bytes[j] << 4) >> 4);
    levels[2 * j + 1] = static_cast<int8_t>(static_cast<int8_t>(bytes[j]) >> 4);
  }
}

class BlockIntCodec final : public Compressor {
 public:
  BlockIntCodec(const BlockIntConfig& config, const CompressorContext& context)
      : d_(context.shape.elements()),
        block_(config.block()),
        blocks_((d_ + block_ - 1) / block_),
        bits_(static_cast<int>(config.bits())),
        most_(bits_ == 8 ? 127 : 7),
        stochastic_(config.rounding() == BlockIntConfig::STOCHASTIC),
        dtype_(context.dtype),
        wire_bits_(bits_ * d_ + 16 * blocks_) {
    nearest_.fill(uint32_t{1} << 31);
  }

  CodecContract Contract() const override {
    const double b = static_cast<double>(std::min(block_, d_)), s = most_ / (1 + 0x1p-7);
    CodecContract contract{.unbiased = stochastic_, .wire_bits = wire_bits_};
    if (stochastic_) {
      contract.q = 1 + std::min(b / (4 * s * s), std::sqrt(b) / s);
    } else {
      contract.delta = 1 + b / 4 / (s * s - 0.25);
    }
    return contract;
  }
  int64_t MaxWireBytes() const override { return (wire_bits_ + 7) / 8; }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    return DispatchFloat(dtype_, [&](auto t) { return EncodeAs(x.data<decltype(t)>(), key, wire); });
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != MaxWireBytes()) return WrongLength("block_int", key, MaxWireBytes(), wire.size());
    return DispatchFloat(dtype_, [&](auto t) { return DecodeAs(wire, key, x.data<decltype(t)>()); });
  }

 private:
  // Goes over the coordinates in windows of kBlockChunk, an even number, and inside each block by block.
  template <typename T>
  int64_t EncodeAs(const T* x, const CodecKey& key, std::span<std::byte> wire) const {
    std::byte* const codes = wire.data() + 2 * blocks_;
    std::array<uint32_t, kBlockChunk> draws;
    std::array<int8_t, kBlockChunk> levels;
    double unit = 0;
    for (int64_t first = 0; first < d_; first += kBlockChunk) {
      const int64_t last = std::min(d_, first + kBlockChunk);
      if (stochastic_) FillRoundingDraws(key, first, std::span(draws).first(static_cast<size_t>(last - first)));
      const uint32_t* const words = stochastic_ ? draws.data() : nearest_.data();
      int8_t* const out = bits_ == 8 ? reinterpret_cast<int8_t*>(codes + first) : levels.data();
      for (int64_t i = first; i < last;) {
        const int64_t block = i / block_, end = std::min(last, (block + 1) * block_);
        if (i % block_ == 0) {
          const uint16_t scale = RoundUpToBf16(Largest(x + i, std::min(block_, d_ - i)));
          if (scale == kInfiniteBf16) return kBeyondRange;
          std::memcpy(wire.data() + 2 * block, &scale, sizeof(scale));
          unit = scale == 0 ? 0 : static_cast<double>(most_) * (int64_t{1} << kFractionBits) / static_cast<double>(Bf16ToFloat(scale));
        }
        RoundBlock(x + i, unit, most_, words + (i - first), out + (i - first), end - i);
        i = end;
      }
      if (bits_ == 8) continue;
      if (last % 2 != 0) levels[static_cast<size_t>(last - first)] = 0;
      PackHalves(levels.data(), reinterpret_cast<uint8_t*>(codes + first / 2), (last - first + 1) / 2);
    }
    return MaxWireBytes();
  }

  template <typename T>
  absl::Status DecodeAs(std::span<const std::byte> wire, const CodecKey& key, T* x) const {
    const std::byte* const codes = wire.data() + 2 * blocks_;
    std::array<int8_t, kBlockChunk> unpacked;
    T step = 0;
    for (int64_t first = 0; first < d_; first += kBlockChunk) {
      const int64_t last = std::min(d_, first + kBlockChunk);
      const int8_t* levels = unpacked.data();
      if (bits_ == 8) {
        levels = reinterpret_cast<const int8_t*>(codes + first);
      } else {
        UnpackHalves(reinterpret_cast<const uint8_t*>(codes + first / 2), unpacked.data(), (last - first + 1) / 2);
      }
      for (int64_t i = first; i < last;) {
        const int64_t block = i / block_, end = std::min(last, (block + 1) * block_);
        if (i % block_ == 0) {
          uint16_t scale;
          std::memcpy(&scale, wire.data() + 2 * block, sizeof(scale));
          if (scale >= kInfiniteBf16) return Malformed("block_int", key, "a scale is negative or not finite");
          step = static_cast<T>(static_cast<double>(Bf16ToFloat(scale)) / most_);
        }
        Expand(levels + (i - first), step, x + i, end - i);
        i = end;
      }
    }
    return absl::OkStatus();
  }

  const int64_t d_, block_, blocks_;
  const int bits_, most_;
  const bool stochastic_;
  const DType dtype_;
  const int64_t wire_bits_;
  std::array<uint32_t, kBlockChunk> nearest_;  // draws of one half
};

}  // namespace

CompressorOr MakeBlockIntCodec(const BlockIntConfig& config, const CompressorContext& context) {
  if (config.bits() != 8 && config.bits() != 4) return InvalidArgument("block_int: bits must be 8 or 4, got %d", config.bits());
  if (config.block() < 1) return InvalidArgument("block_int: block must be at least 1, got %d", config.block());
  return std::make_unique<BlockIntCodec>(config, context);
}

}  // namespace conclave
