// QSGD (Alistarh et al., arXiv 1610.02132): |x_i| becomes |x| l / s, l one of the two integers around s |x_i| / |x|, drawn without bias.
// q = 1 + min(d / s^2, sqrt(d) / s).
// Wire: |x| as f32, rounded up; then each l in Golomb-Rice code, followed by a sign where l > 0. The code's parameter is made for a typical
// l of s / sqrt(d). As sum l <= s sqrt(d) + d, a message has a longest length; its true one varies.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/simd.h"
#include "comm/bit_stream.h"
#include "comm/codec_draws.h"
#include "comm/compressors.h"
#include "comm/fixed_lanes.h"

namespace conclave {
namespace {

constexpr int64_t kChunk = 1024;

// levels[i]: the integer that x[i] is rounded to, with its sign; unit: s 2^32 / |x|; draws: 32 bits a value.
template <typename T>
CONCLAVE_INLINE void LevelLoop(const T* x, double unit, const uint32_t* draws, int64_t most, int32_t* levels, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto v = static_cast<double>(x[i]);
    const auto fixed = static_cast<int64_t>((v < 0 ? -v : v) * unit);  // 32 bits below the point
    const int64_t level = std::min((fixed + static_cast<int64_t>(draws[i])) >> 32, most);
    levels[i] = static_cast<int32_t>(v < 0 ? -level : level);
  }
}
CONCLAVE_SIMD void RoundLevels(const float* x, double unit, const uint32_t* draws, int64_t most, int32_t* levels, int64_t n) {
  LevelLoop(x, unit, draws, most, levels, n);
}
CONCLAVE_SIMD void RoundLevels(const double* x, double unit, const uint32_t* draws, int64_t most, int32_t* levels, int64_t n) {
  LevelLoop(x, unit, draws, most, levels, n);
}

// The whole codes at the front of a window of bits, so that the usual short ones are read several at a time.
class CodeTable {
 public:
  static constexpr int kWindow = 10, kMostCodes = 6;
  struct Entry {
    int8_t codes = 0, bits = 0;  // how many whole codes, and their bits together
    int16_t levels[kMostCodes] = {};
  };

  CodeTable(int rice, int64_t most) {
    for (uint32_t window = 0; window < entries_.size(); ++window) {
      Entry& entry = entries_[window];
      while (entry.codes < kMostCodes) {
        const uint32_t rest = window >> entry.bits;
        const int left = kWindow - entry.bits, unary = std::countr_one(rest);
        const int bits = unary + 1 + rice;
        if (bits > left) break;
        const int64_t level = (int64_t{unary} << rice) | ((rest >> (unary + 1)) & ((1u << rice) - 1));
        const int sign = level > 0 ? 1 : 0;
        if (bits + sign > left || level > most) break;
        const bool negative = sign != 0 && ((rest >> bits) & 1) != 0;
        entry.levels[entry.codes++] = static_cast<int16_t>(negative ? -level : level);
        entry.bits = static_cast<int8_t>(entry.bits + bits + sign);
      }
    }
  }
  const Entry& operator[](uint64_t bits) const { return entries_[bits & (entries_.size() - 1)]; }

 private:
  std::array<Entry, 1 << kWindow> entries_;
};

// The codes of small levels that have at most 8 bits, so that four of them make one word.
class ShortCodes {
 public:
  struct Entry {
    uint8_t code = 0, bits = 0;  // 0 bits: a longer code
  };

  explicit ShortCodes(int rice) {
    for (int level = 1 - kMost; level < kMost; ++level) {
      const int magnitude = level < 0 ? -level : level, unary = magnitude >> rice;
      const int length = unary + 1 + rice, bits = length + (level != 0 ? 1 : 0);
      if (bits > 8) continue;
      const int code = ((1 << unary) - 1) | ((magnitude & ((1 << rice) - 1)) << (unary + 1)) | ((level < 0 ? 1 : 0) << length);
      entries_[static_cast<size_t>(level + kMost)] = {static_cast<uint8_t>(code), static_cast<uint8_t>(bits)};
    }
  }
  const Entry& operator[](int32_t level) const {
    const auto place = static_cast<uint32_t>(level + kMost);
    return entries_[place < entries_.size() ? place : 0];
  }

 private:
  static constexpr int kMost = 128;  // levels from -127 to 127; the first entry stays empty
  std::array<Entry, 2 * kMost> entries_;
};

class QsgdCodec final : public Compressor {
 public:
  QsgdCodec(int64_t levels, const CompressorContext& context)
      : d_(context.shape.elements()), levels_(levels), root_(std::sqrt(static_cast<double>(d_))), dtype_(context.dtype) {
    const double typical = 0.55 * static_cast<double>(levels_) / std::max(root_, 1.0);
    rice_ = std::max(0, static_cast<int>(std::lround(std::log2(typical))));
    const double sum = static_cast<double>(levels_) * root_ * (1 + 0x1p-20) + static_cast<double>(d_);
    table_ = CodeTable(rice_, levels_);
    short_ = ShortCodes(rice_);
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
    std::array<uint32_t, kChunk> draws;
    std::array<int32_t, kChunk> levels;
    for (int64_t first = 0; first < d_; first += kChunk) {
      const int64_t n = std::min(kChunk, d_ - first);
      FillRoundingDraws(key, first, std::span(draws).first(static_cast<size_t>(n)));
      DispatchFloat(dtype_, [&](auto t) { RoundLevels(x.data<decltype(t)>() + first, unit, draws.data(), levels_, levels.data(), n); });
      PutLevels(std::span(levels).first(static_cast<size_t>(n)), bits);
    }
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
      const auto put = [&](int64_t i, int32_t level) { out[i] = static_cast<T>(level) * step + T{0}; };
      int64_t i = 0;
      while (i < d_ && !bits.overran()) {
        const CodeTable::Entry& entry = table_[bits.Peek()];
        if (entry.codes == 0 || d_ - i < CodeTable::kMostCodes) {
          put(i++, GetLevel(bits));
          continue;
        }
        for (int j = 0; j < CodeTable::kMostCodes; ++j) put(i + j, entry.levels[j]);  // those too many are overwritten
        i += entry.codes;
        bits.Skip(entry.bits);
      }
    });
    if (bits.overran() || bits.bytes() + 4 != static_cast<int64_t>(wire.size())) {
      return Malformed("qsgd", key, "its length does not fit its content");
    }
    return absl::OkStatus();
  }

 private:
  void PutLevels(std::span<const int32_t> levels, BitWriter& bits) const {
    size_t i = 0;
    for (; i + 4 <= levels.size(); i += 4) {
      const ShortCodes::Entry &a = short_[levels[i]], &b = short_[levels[i + 1]], &c = short_[levels[i + 2]], &d = short_[levels[i + 3]];
      if (a.bits == 0 || b.bits == 0 || c.bits == 0 || d.bits == 0) {
        for (size_t j = i; j < i + 4; ++j) PutLevel(levels[j], bits);
        continue;
      }
      const uint32_t first = a.code | uint32_t{b.code} << a.bits, second = c.code | uint32_t{d.code} << c.bits;
      const int half = a.bits + b.bits;
      bits.Put(first | uint64_t{second} << half, half + c.bits + d.bits);
    }
    for (; i < levels.size(); ++i) PutLevel(levels[i], bits);
  }
  // The level in Golomb-Rice code, and a sign where it is not 0.
  void PutLevel(int32_t level, BitWriter& bits) const {
    const auto magnitude = static_cast<uint64_t>(level < 0 ? -level : level), unary = magnitude >> rice_;
    const uint64_t length = unary + 1 + static_cast<uint64_t>(rice_), sign = level != 0 ? 1 : 0;
    if (length + sign <= 32) {
      const uint64_t rest = magnitude & ((uint64_t{1} << rice_) - 1);
      const uint64_t code = ((uint64_t{1} << unary) - 1) | (rest << (unary + 1)) | (uint64_t{level < 0} << length);
      return bits.Put(code, static_cast<int>(length + sign));
    }
    bits.PutRice(magnitude, rice_);
    bits.Put(level < 0 ? 1 : 0, 1);
  }
  int32_t GetLevel(BitReader& bits) const {
    const auto level = static_cast<int32_t>(bits.GetRice(rice_, static_cast<uint64_t>(levels_)));
    return level > 0 && bits.Get(1) != 0 ? -level : level;
  }

  const int64_t d_, levels_;
  const double root_;  // sqrt(d)
  const DType dtype_;
  int rice_ = 0;
  int64_t wire_bits_ = 0;
  CodeTable table_{0, 0};
  ShortCodes short_{0};
};

}  // namespace

CompressorOr MakeQsgdCodec(const QsgdConfig& config, const CompressorContext& context) {
  if (config.levels() < 1 || config.levels() > 32767) return InvalidArgument("qsgd: levels must be in [1, 32767], got %d", config.levels());
  return std::make_unique<QsgdCodec>(config.levels(), context);
}

}  // namespace conclave
