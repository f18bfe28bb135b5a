// RandK: k of d coordinates, drawn uniformly without replacement, scaled by d / k: E Q(x) = x, E |Q(x)|^2 = (d / k) |x|^2.
// Wire: the k scaled values in ascending order of their coordinates. The receiver draws the same coordinates, so the mask costs no bytes.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "comm/compressors.h"

namespace conclave {
namespace {

// Calls f(coordinate) for the k chosen ones, ascending. Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, Algorithm S):
// coordinate i is taken with probability (still to take) / (still to come), from one 32-bit word of its own: every subset has the same
// chance but for 2^-32 d.
template <typename F>
void ForChosen(const RngKey& key, int64_t k, int64_t d, F&& f) {
  std::array<uint32_t, 256> words;
  int64_t left = k;
  for (int64_t first = 0; first < d && left > 0; first += static_cast<int64_t>(words.size())) {
    const int64_t n = std::min<int64_t>(static_cast<int64_t>(words.size()), d - first);
    key.FillBits(static_cast<uint64_t>(first), std::span(words).first(static_cast<size_t>(n)));
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t drawn = (uint64_t{words[i]} * static_cast<uint64_t>(d - first - i)) >> 32;
      if (drawn >= static_cast<uint64_t>(left)) continue;
      f(first + i);
      --left;
    }
  }
}

class RandKCodec final : public Compressor {
 public:
  RandKCodec(int64_t k, const CompressorContext& context)
      : k_(k), d_(context.shape.elements()), dtype_(context.dtype), bytes_(k * SizeOf(context.dtype)) {}

  CodecContract Contract() const override {
    const double q = static_cast<double>(d_) / static_cast<double>(k_);
    return {.unbiased = true, .q = q, .delta = q, .wire_bits = bytes_ * 8};
  }
  int64_t MaxWireBytes() const override { return bytes_; }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      const T* const values = x.data<T>();
      const T scale = static_cast<T>(static_cast<double>(d_) / static_cast<double>(k_));
      std::byte* out = wire.data();
      ForChosen(Mask(key), k_, d_, [&](int64_t i) {
        const T value = values[i] * scale;
        std::memcpy(out, &value, sizeof(T));
        out += sizeof(T);
      });
    });
    return bytes_;
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != bytes_) {
      return DataLoss("rand_k message of worker %d, block %d: expected %d bytes, got %d", key.worker.value, key.block.value, bytes_,
                      wire.size());
    }
    x.Zero();
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      T* const values = x.data<T>();
      const std::byte* in = wire.data();
      ForChosen(Mask(key), k_, d_, [&](int64_t i) {
        T value;
        std::memcpy(&value, in, sizeof(T));
        in += sizeof(T);
        values[i] += value;  // onto +0: never -0
      });
    });
    return absl::OkStatus();
  }

 private:
  static RngKey Mask(const CodecKey& key) {
    return {.seed = key.seed,
            .site = static_cast<uint32_t>(key.block.value),
            .step = key.step,
            .worker = static_cast<uint32_t>(key.worker.value),
            .kind = RngKind::kCodec,
            .draw = key.draw};
  }

  const int64_t k_, d_;
  const DType dtype_;
  const int64_t bytes_;
};

}  // namespace

CompressorOr MakeRandKCodec(const RandKConfig& config, const CompressorContext& context) {
  const double fraction = config.fraction();
  if (!(fraction > 0 && fraction <= 1)) return InvalidArgument("rand_k: fraction must be in (0, 1], got %g", fraction);
  const int64_t d = context.shape.elements();
  if (d < 1) return InvalidArgument("rand_k: a block of shape %s has no coordinates to choose from", context.shape.ToString());
  const int64_t k = std::clamp<int64_t>(std::llround(fraction * static_cast<double>(d)), 1, d);
  return std::make_unique<RandKCodec>(k, context);
}

}  // namespace conclave
