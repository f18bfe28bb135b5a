// Low rank: a matrix X [rows, cols] goes as X's projection onto `width` directions, as two factors. From seeded normals G [cols, width]:
//   A = orthonormalised X G, Q = X^T A; as many times again as `iterations` says A = orthonormalised X Q, Q = X^T A;   C(X) = A Q^T.
// The columns of A span that of (X X^T)^(iterations - 1) X G. Let r = min(rows, cols). In the basis of X's left singular vectors the mean
// over G of the projection A A^T is diagonal, with entries that are the larger the larger the singular value and that add up to width; so
// by Chebyshev's sum inequality E |A A^T X|^2 >= width / r |X|^2, for every X: delta = r / width, attained where all singular values are
// equal. What spectra fall off lose much less, and a rank of width or less is kept to rounding, for which the contract leaves 2^-20. Wire:
// A, then Q. Arithmetic: 4 rows cols width an iteration to encode, half that to decode.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "comm/codec_draws.h"
#include "comm/compressors.h"
#include "comm/fixed_lanes.h"
#include "comm/matrix_factors.h"

namespace conclave {
namespace {

class LowRankCodec final : public Compressor {
 public:
  LowRankCodec(const LowRankConfig& config, const CompressorContext& context)
      : size_(MatrixOf(context.shape)),
        width_(config.width()),
        iterations_(config.iterations()),
        factors_({(size_.rows + size_.cols) * width_}, context.dtype),
        a_(factors_->Slice(0, size_.rows * width_)),
        q_(factors_->Slice(size_.rows * width_, size_.cols * width_)) {}

  CodecContract Contract() const override {
    const double kept = static_cast<double>(width_) / static_cast<double>(std::min(size_.rows, size_.cols));
    return {.unbiased = false, .delta = 1 / (kept * (1 - 0x1p-20)), .wire_bits = 8 * factors_->bytes()};
  }
  int64_t MaxWireBytes() const override { return factors_->bytes(); }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), size_.rows * size_.cols);
    const double mean = SumOfMagnitudes(x) / static_cast<double>(x.elements());
    if (!std::isfinite(mean)) return kBeyondRange;
    const bool fits = DispatchFloat(x.dtype(), [&](auto t) { return Factorise<decltype(t)>(x, key, mean); });
    if (!fits) return kBeyondRange;
    std::memcpy(wire.data(), factors_->raw(), static_cast<size_t>(factors_->bytes()));
    return factors_->bytes();
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != MaxWireBytes()) return WrongLength("low_rank", key, MaxWireBytes(), wire.size());
    std::memcpy(factors_->raw(), wire.data(), wire.size());
    if (!DispatchFloat(x.dtype(), [&](auto t) { return WithinRange<decltype(t)>(); })) {
      return Malformed("low_rank", key, "its factors are beyond the range of their product");
    }
    FactorsProduct(a_, q_, x, size_, width_);
    return absl::OkStatus();
  }

 private:
  // False where the factors are too large.
  template <typename T>
  bool Factorise(const Tensor& x, const CodecKey& key, double mean) const {
    // Factors that X is multiplied with are brought down by X's size: nothing over- or underflows, and powers of two change no bit.
    using Limits = std::numeric_limits<T>;
    const int size = mean > 0 ? std::clamp(std::ilogb(mean), 1 - Limits::max_exponent, -Limits::min_exponent) : 0;
    const auto scale = static_cast<T>(std::ldexp(1.0, -size));
    T* const q = q_.data<T>();
    MaskDraws(key).FillNormal(0, q_.span<T>());
    for (int64_t i = 0; i < iterations_; ++i) {
      for (int64_t j = 0; j < q_.elements(); ++j) q[j] *= scale;
      TimesFactor(x, q_, a_, size_, width_);
      Orthonormalise(a_, size_.rows, width_);
      TransposedTimesFactor(x, a_, q_, size_, width_);
    }
    return WithinRange<T>();
  }

  // No entry of A Q^T can overflow; false where a factor is not a number.
  template <typename T>
  bool WithinRange() const {
    const T most = std::numeric_limits<T>::max() / static_cast<T>(2 * width_);
    const auto within = [](const Tensor& factor, T limit) {
      return std::all_of(factor.data<T>(), factor.data<T>() + factor.elements(), [&](T v) { return std::abs(v) <= limit; });
    };
    return within(a_, T{2}) && within(q_, most);
  }

  const MatrixSize size_;
  const int64_t width_, iterations_;
  const OwnedTensor factors_;  // A, then Q
  const Tensor a_, q_;
};

}  // namespace

CompressorOr MakeLowRankCodec(const LowRankConfig& config, const CompressorContext& context) {
  if (config.width() < 1) return InvalidArgument("low_rank: width must be at least 1, got %d", config.width());
  if (config.iterations() < 1) return InvalidArgument("low_rank: iterations must be at least 1, got %d", config.iterations());
  const MatrixSize size = MatrixOf(context.shape);
  if (std::min(size.rows, size.cols) < config.width()) {
    return InvalidArgument(
        "low_rank: needs a matrix with at least as many rows and columns as factors have columns (%d), got %s; name another codec for this "
        "block by a rule of blockwise. With servers a large block travels in parts that are no matrices: servers: FIRST_WORKER keeps it "
        "whole",
        config.width(), context.shape.ToString());
  }
  return std::make_unique<LowRankCodec>(config, context);
}

}  // namespace conclave
