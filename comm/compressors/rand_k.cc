// RandK: k of d coordinates, each with the same probability, scaled by d / k: E Q(x) = x, E |Q(x)|^2 = (d / k) |x|^2. Every set of k has
// the same chance; but in blocks of kStrataFrom coordinates and more of which one in s is kept, it is one of every s consecutive ones, at
// random (comm/strata.h): the same contract with q = s, for a quarter of k random words or a few more instead of d, at
// the speed of memory.
// Wire: the k scaled values in ascending order of their coordinates, by their codec. The receiver draws the same coordinates, so the mask
// costs no bytes.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "base/simd.h"
#include "comm/codec_draws.h"
#include "comm/compressors.h"
#include "comm/kept_values.h"
#include "comm/strata.h"

namespace conclave {
namespace {

constexpr int64_t kStrataFrom = 4096;

// s, where a block of d coordinates of which k are to be kept goes by strata: ceil(d / s) must be k, give or take one. Else 0.
int64_t StratumSize(int64_t k, int64_t d) {
  const int64_t size = (d + k / 2) / k;
  return d >= kStrataFrom && size > 1 && size <= kLargestStratum && std::abs((d + size - 1) / size - k) <= 1 ? size : 0;
}

// words[i] becomes a number below d - i, d < 2^32; positions: those i whose number is below `left`, which are counted. Room: n + 16.
CONCLAVE_SIMD void PlaceWords(uint32_t* words, uint64_t d, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    words[i] = static_cast<uint32_t>((uint64_t{words[i]} * static_cast<uint32_t>(d - static_cast<uint64_t>(i))) >> 32);
}
int64_t BelowPlain(const uint32_t* words, uint32_t left, int32_t* positions, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {  // takes no branch on a draw
    positions[count] = static_cast<int32_t>(i);
    count += words[i] < left ? 1 : 0;
  }
  return count;
}
__attribute__((target("avx512f"))) int64_t BelowAvx512(const uint32_t* words, uint32_t left, int32_t* positions, int64_t n) {
  const __m512i limit = _mm512_set1_epi32(static_cast<int32_t>(left));
  __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16, at = _mm512_add_epi32(at, _mm512_set1_epi32(16))) {
    const auto there = static_cast<__mmask16>(n - i < 16 ? (1u << (n - i)) - 1 : 0xFFFFu);
    const __mmask16 below = _mm512_mask_cmplt_epu32_mask(there, _mm512_maskz_loadu_epi32(there, words + i), limit);
    _mm512_storeu_si512(positions + count, _mm512_maskz_compress_epi32(below, at));
    count += std::popcount(static_cast<uint32_t>(below));
  }
  return count;
}

// Calls f(coordinate) for the k chosen ones, ascending, and before those of a stretch of coordinates begin(first, end); all d are in one
// stretch or another. Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, Algorithm S):
// coordinate i is taken with probability (still to take) / (still to come), from one 32-bit word of its own: every subset has the same
// chance but for 2^-32 d.
template <typename B, typename F>
void ForChosen(const RngKey& key, int64_t first_word, int64_t k, int64_t d, B&& begin, F&& f) {
  constexpr int64_t kChunk = 1024;
  std::array<uint32_t, kChunk> words;
  std::array<int32_t, kChunk + 16> chosen;
  static const bool kAvx512 = __builtin_cpu_supports("avx512f") != 0;
  int64_t left = k, first = 0;
  for (; first < d && left > 0; first += kChunk) {
    const int64_t n = std::min(kChunk, d - first);
    begin(first, first + n);
    key.FillBits(static_cast<uint64_t>(first_word + first), std::span(words).first(static_cast<size_t>(n)));
    PlaceWords(words.data(), static_cast<uint64_t>(d - first), n);
    // Whoever is taken is below `left` as it is before the chunk: few stay, and only they are looked at one after the other.
    const auto limit = static_cast<uint32_t>(left);  // at most d
    const int64_t candidates = (kAvx512 ? BelowAvx512 : BelowPlain)(words.data(), limit, chosen.data(), n);
    int64_t count = 0;
    for (int64_t j = 0; j < candidates; ++j) {
      const int32_t i = chosen[static_cast<size_t>(j)];
      chosen[static_cast<size_t>(count)] = i;
      count += words[static_cast<size_t>(i)] < left - count ? 1 : 0;
    }
    left -= count;
    for (int64_t j = 0; j < count; ++j) f(first + chosen[static_cast<size_t>(j)]);
  }
  if (first < d) begin(first, d);
}

class RandKCodec final : public Compressor {
 public:
  // stratum: 0 for any k of all coordinates.
  RandKCodec(int64_t k, int64_t stratum, bool common_mask, KeptValues kept, const CompressorContext& context)
      : k_(k), d_(context.shape.elements()), stratum_(stratum), common_mask_(common_mask), dtype_(context.dtype), kept_(std::move(kept)) {}

  CodecContract Contract() const override {
    CodecContract contract = kept_.contract();
    contract.q *= Scale();
    contract.correlated = common_mask_;
    contract.lossless = contract.lossless && k_ == d_;
    contract.linear = common_mask_ && contract.linear;
    return contract;
  }
  int64_t MaxWireBytes() const override { return kept_.MaxWireBytes(); }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    if (stratum_ > 0) {
      GatherKept(StrataOf(key), x.Flat(), Scale(), kept_.Place(wire));
      return kept_.EncodePlaced(key, wire);
    }
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      const T* const values = x.data<T>();
      const T scale = static_cast<T>(Scale());
      T* out = kept_.values().data<T>();
      ForChosen(
          Mask(key), key.first, k_, d_, [](int64_t, int64_t) {}, [&](int64_t i) { *out++ = values[i] * scale; });
    });
    return kept_.Encode(key, wire);
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (stratum_ > 0) {
      ASSIGN_OR_RETURN(const std::byte* values, kept_.DecodePlaced(wire, key));
      ScatterKept(StrataOf(key), values, x.Flat());
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(kept_.Decode(wire, key));
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      T* const values = x.data<T>();
      const T* in = kept_.values().data<T>();
      ForChosen(
          Mask(key), key.first, k_, d_, [&](int64_t first, int64_t end) { std::fill(values + first, values + end, T{0}); },
          [&](int64_t i) { values[i] = *in++; });
    });
    return absl::OkStatus();
  }

 private:
  double Scale() const { return stratum_ > 0 ? static_cast<double>(stratum_) : static_cast<double>(d_) / static_cast<double>(k_); }
  Strata StrataOf(const CodecKey& key) const {
    return {.elements = d_, .size = stratum_, .draws = Mask(key), .first_word = static_cast<uint64_t>(key.first)};
  }
  RngKey Mask(const CodecKey& key) const { return common_mask_ ? SharedMaskDraws(key) : MaskDraws(key); }

  const int64_t k_, d_, stratum_;
  const bool common_mask_;
  const DType dtype_;
  const KeptValues kept_;
};

}  // namespace

CompressorOr MakeRandKCodec(const RandKConfig& config, const CompressorContext& context) {
  ASSIGN_OR_RETURN(int64_t k, CountOf("rand_k", config.fraction(), context));
  const int64_t d = context.shape.elements(), stratum = StratumSize(k, d);
  if (stratum > 0) k = (d + stratum - 1) / stratum;
  if (context.shape.elements() > int64_t{UINT32_MAX}) {
    return InvalidArgument("rand_k: a block of shape %s has more than 2^32 - 1 coordinates", context.shape.ToString());
  }
  ASSIGN_OR_RETURN(KeptValues kept,
                   KeptValues::Make({.owner = "rand_k", .codec = config.has_values() ? &config.values() : nullptr, .count = k}, context));
  return std::make_unique<RandKCodec>(k, stratum, config.common_mask(), std::move(kept), context);
}

}  // namespace conclave
