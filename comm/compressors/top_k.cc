// TopK: the k coordinates of largest magnitude; of equal ones those with the lower indices. |C(x) - x|^2 <= (1 - k/d) |x|^2: delta = d / k;
// with a codec on the values 1/delta is multiplied by that codec's.
// Wire: the gaps between ascending indices in Golomb-Rice code, b chosen for uniformly spread ones; from the next byte on the values by
// their codec. As the gaps add up to d - k at most, a message has a longest length; its true one varies.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/simd.h"
#include "comm/bit_stream.h"
#include "comm/compressors.h"
#include "comm/kept_values.h"
#include "comm/sparse_terms.h"

namespace conclave {
namespace {

CONCLAVE_INLINE uint32_t MagnitudeBits(float x) { return std::bit_cast<uint32_t>(x) & 0x7FFFFFFF; }
CONCLAVE_INLINE uint64_t MagnitudeBits(double x) { return std::bit_cast<uint64_t>(x) & 0x7FFFFFFFFFFFFFFF; }

// The k-th largest magnitude's bits (they are ordered like the numbers), and how many coordinates of just that size are among the first k.
template <typename Bits>
struct Threshold {
  Bits bits = 0;
  int64_t equal = 0;
};

// By counting digits of 11 bits from the top, each time among those that agree so far. 3 passes over x for f32, 6 for f64.
template <typename T>
auto FindThreshold(const T* x, int64_t n, int64_t k) {
  using Bits = decltype(MagnitudeBits(T{}));
  constexpr int kDigit = 11;
  std::array<int64_t, 1 << kDigit> counts;
  Threshold<Bits> threshold{.equal = k};
  int low = static_cast<int>(8 * sizeof(Bits)) - 1;  // bits not looked at yet
  while (low > 0) {
    const int next = std::max(low - kDigit, 0);
    const Bits mask = (Bits{1} << (low - next)) - 1, prefix = low == static_cast<int>(8 * sizeof(Bits)) - 1 ? 0 : threshold.bits >> low;
    counts.fill(0);
    for (int64_t i = 0; i < n; ++i) {
      const Bits bits = MagnitudeBits(x[i]);
      if (bits >> low == prefix) ++counts[static_cast<size_t>((bits >> next) & mask)];
    }
    Bits digit = mask;
    while (counts[static_cast<size_t>(digit)] < threshold.equal) threshold.equal -= counts[static_cast<size_t>(digit--)];
    threshold.bits |= digit << next;
    low = next;
  }
  return threshold;
}

class TopKCodec final : public Compressor {
 public:
  TopKCodec(int64_t k, KeptValues kept, const CompressorContext& context)
      : k_(k), d_(context.shape.elements()), dtype_(context.dtype), kept_(std::move(kept)) {
    rice_ = k_ < d_ ? RiceParameter(static_cast<double>(k_) / static_cast<double>(d_)) : 0;
    index_bits_ = k_ * (rice_ + 1) + ((d_ - k_) >> rice_);
  }

  CodecContract Contract() const override {
    const CodecContract& values = kept_.contract();
    return {.unbiased = false,
            .delta = static_cast<double>(d_) / static_cast<double>(k_) / values.inverse_delta(),
            .wire_bits = (index_bits_ + 7) / 8 * 8 + values.wire_bits,
            .fixed_size = false};
  }
  int64_t MaxWireBytes() const override { return (index_bits_ + 7) / 8 + kept_.MaxWireBytes(); }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    BitWriter indices(wire.data());
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      const T* const values = x.data<T>();
      T* out = kept_.values().data<T>();
      auto threshold = FindThreshold(values, d_, k_);
      int64_t next = 0;
      for (int64_t i = 0; i < d_; ++i) {
        const auto bits = MagnitudeBits(values[i]);
        if (bits < threshold.bits || (bits == threshold.bits && threshold.equal-- <= 0)) continue;
        indices.PutRice(static_cast<uint64_t>(i - next), rice_);
        *out++ = values[i];
        next = i + 1;
      }
      CHECK_EQ(out - kept_.values().data<T>(), k_);
    });
    const int64_t index_bytes = indices.Finish(), value_bytes = kept_.Encode(key, wire.subspan(static_cast<size_t>(index_bytes)));
    return value_bytes < 0 ? kBeyondRange : index_bytes + value_bytes;
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) > MaxWireBytes()) return WrongLength("top_k", key, MaxWireBytes(), wire.size());
    x.Zero();
    // Once over the indices to find the values behind them, once more to place them.
    BitReader ahead(wire);
    int64_t next = 0;
    for (int64_t j = 0; j < k_; ++j) {
      next += static_cast<int64_t>(ahead.GetRice(rice_, static_cast<uint64_t>(d_))) + 1;
      if (ahead.overran() || next > d_) return Malformed("top_k", key, "an index is beyond the block or the message");
    }
    RETURN_IF_ERROR(kept_.Decode(wire.subspan(static_cast<size_t>(ahead.bytes())), key));
    BitReader indices(wire);
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      T* const out = x.data<T>();
      const T* const values = kept_.values().data<T>();
      int64_t at = 0;
      for (int64_t j = 0; j < k_; ++j, ++at) {
        at += static_cast<int64_t>(indices.GetRice(rice_, static_cast<uint64_t>(d_)));
        out[at] = values[j];
      }
    });
    return absl::OkStatus();
  }

 private:
  const int64_t k_, d_;
  const DType dtype_;
  const KeptValues kept_;
  int rice_ = 0;
  int64_t index_bits_ = 0;  // at most
};

}  // namespace

CompressorOr MakeTopKCodec(const TopKConfig& config, const CompressorContext& context) {
  ASSIGN_OR_RETURN(const int64_t k, CountOf("top_k", config.fraction(), context));
  ASSIGN_OR_RETURN(
      KeptValues kept,
      KeptValues::Make({.owner = "top_k", .codec = config.has_values() ? &config.values() : nullptr, .count = k, .unbiased = false},
                       context));
  return std::make_unique<TopKCodec>(k, std::move(kept), context);
}

}  // namespace conclave
