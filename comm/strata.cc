#include "comm/strata.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/simd.h"
#include "comm/codec_draws.h"

namespace conclave {
namespace {

constexpr int64_t kBatch = 128;        // strata at a time: a group of random words
constexpr int64_t kFewStrata = 32;     // zeroed and filled at a time: what is zeroed is still near when its values come
constexpr int64_t kDenseSize = 16;     // up to here nearly every line holds a kept value
constexpr int64_t kAheadBytes = 2048;  // lines are asked for while words are drawn and values placed
constexpr int64_t kMostAsked = 4096;   // elements, where strata are large
constexpr int64_t kLineBytes = 64;

int64_t DigitsOf(int64_t size) { return size <= 16 ? 4 : size <= 256 ? 2 : 1; }

// positions = those of a batch's kept ones, counted from its first coordinate; words keep what their next digits are made of.
CONCLAVE_SIMD void NextPositionsPlain(uint32_t* __restrict words, uint32_t size, uint32_t offset, uint32_t* __restrict positions) {
  for (int64_t i = 0; i < kBatch; ++i) {
    const uint64_t product = uint64_t{words[i]} * size;
    uint32_t place = static_cast<uint32_t>(product >> 32) + offset;
    place -= place >= size ? size : 0;
    positions[i] = static_cast<uint32_t>(i) * size + place;
    words[i] = static_cast<uint32_t>(product);
  }
}
// Products of the even and of the odd words, each in 64 bits. The compiler widens and narrows instead, for twice the time.
__attribute__((target("avx512f"))) void NextPositionsAvx512(uint32_t* words, uint32_t size, uint32_t offset, uint32_t* positions) {
  constexpr __mmask8 kAll8 = 0xFF;  // the unmasked forms draw false warnings from g++ 12
  constexpr __mmask16 kAll16 = 0xFFFF, kOdd = 0xAAAA;
  const __m512i factor = _mm512_set1_epi64(size), sizes = _mm512_set1_epi32(static_cast<int32_t>(size));
  const __m512i offsets = _mm512_set1_epi32(static_cast<int32_t>(offset)), sixteen = _mm512_set1_epi32(static_cast<int32_t>(16 * size));
  __m512i begin = _mm512_mullo_epi32(sizes, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int64_t i = 0; i < kBatch; i += 16, begin = _mm512_add_epi32(begin, sixteen)) {
    const __m512i word = _mm512_loadu_si512(words + i);
    const __m512i even = _mm512_maskz_mul_epu32(kAll8, word, factor);
    const __m512i odd = _mm512_maskz_mul_epu32(kAll8, _mm512_maskz_srli_epi64(kAll8, word, 32), factor);
    const __m512i high = _mm512_mask_blend_epi32(kOdd, _mm512_maskz_srli_epi64(kAll8, even, 32), odd);
    const __m512i place = _mm512_add_epi32(high, offsets);  // or that less the size, which is huge where it would be negative
    const __m512i within = _mm512_maskz_min_epu32(kAll16, place, _mm512_sub_epi32(place, sizes));
    _mm512_storeu_si512(positions + i, _mm512_add_epi32(begin, within));
    _mm512_storeu_si512(words + i, _mm512_mask_blend_epi32(kOdd, even, _mm512_maskz_slli_epi64(kAll8, odd, 32)));
  }
}

// Asks for the lines of the next `bytes`, reading or (1) writing them.
template <int kWrite>
CONCLAVE_INLINE void AskFor(const std::byte* next, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLineBytes) __builtin_prefetch(next + i, kWrite, 3);
}

// Calls f(first stratum, n, positions) for batches of strata; positions[i] counts from the first one's first coordinate.
template <typename F>
void ForBatches(const Strata& strata, F&& f) {
  CHECK(strata.size >= 1 && strata.size <= kLargestStratum && strata.offset >= 0 && strata.offset < strata.size) << strata.size;
  static const bool kAvx512 = __builtin_cpu_supports("avx512f") != 0;
  const int64_t count = strata.count(), digits = DigitsOf(strata.size);
  std::array<uint32_t, kBatch> words{}, positions;
  for (int64_t first = 0; first < count; first += kBatch) {
    const int64_t n = std::min(kBatch, count - first);
    if (first % (digits * kBatch) == 0) {
      strata.draws.FillBits(strata.first_word + static_cast<uint64_t>(first / digits), std::span(words).first(static_cast<size_t>(n)));
    }
    (kAvx512 ? NextPositionsAvx512 : NextPositionsPlain)(words.data(), static_cast<uint32_t>(strata.size),
                                                         static_cast<uint32_t>(strata.offset), positions.data());
    f(first, n, positions.data());
  }
}

// kept: n values at any address.
template <typename T>
CONCLAVE_INLINE void Take(const T* x, const uint32_t* positions, T scale, std::byte* kept, int64_t n) {
  for (int64_t i = 0; i < n; ++i, kept += sizeof(T)) {
    const T value = x[positions[i]] * scale;
    std::memcpy(kept, &value, sizeof(T));
  }
}
template <typename T>
CONCLAVE_INLINE void Place(const std::byte* kept, const uint32_t* positions, T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i, kept += sizeof(T)) {
    T value;
    std::memcpy(&value, kept, sizeof(T));
    x[positions[i]] = value + T{0};
  }
}

template <typename T>
void GatherLoop(const Strata& strata, const T* x, T scale, std::byte* kept) {
  constexpr auto kWidth = static_cast<int64_t>(sizeof(T));
  ForBatches(strata, [&](int64_t first, int64_t n, const uint32_t* positions) {
    const int64_t begin = first * strata.size, next = begin + kBatch * strata.size;
    if (strata.size <= kDenseSize && next < strata.elements) {
      AskFor<0>(reinterpret_cast<const std::byte*>(x + next), std::min(kAheadBytes, (strata.elements - next) * kWidth));
    }
    std::byte* const out = kept + first * kWidth;
    const bool behind = begin + positions[n - 1] >= strata.elements;  // the last one of all
    Take(x + begin, positions, scale, out, behind ? n - 1 : n);
    if (behind) std::memset(out + (n - 1) * kWidth, 0, sizeof(T));
  });
}

template <typename T>
void ScatterLoop(const Strata& strata, const std::byte* kept, T* x) {
  constexpr auto kWidth = static_cast<int64_t>(sizeof(T));
  ForBatches(strata, [&](int64_t first, int64_t n, const uint32_t* positions) {
    T* const origin = x + first * strata.size;
    const int64_t left = strata.elements - first * strata.size;
    for (int64_t i = 0; i < n; i += kFewStrata) {
      const int64_t few = std::min(kFewStrata, n - i), begin = i * strata.size, end = std::min(begin + few * strata.size, left);
      std::memset(origin + begin, 0, static_cast<size_t>((end - begin) * kWidth));
      const int64_t ahead = end + kAheadBytes / kWidth, asked = std::min({end - begin, left - ahead, kMostAsked});
      AskFor<1>(reinterpret_cast<const std::byte*>(origin + ahead), asked * kWidth);
      const bool behind = positions[i + few - 1] >= left;
      Place(kept + (first + i) * kWidth, positions + i, origin, behind ? few - 1 : few);
    }
  });
}

}  // namespace

void GatherKept(const Strata& strata, const Tensor& x, double scale, std::byte* kept) {
  CHECK_EQ(x.elements(), strata.elements);
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    GatherLoop<T>(strata, x.data<T>(), static_cast<T>(scale), kept);
  });
}

void ScatterKept(const Strata& strata, const std::byte* kept, const Tensor& x) {
  CHECK_EQ(x.elements(), strata.elements);
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    ScatterLoop<T>(strata, kept, x.data<T>());
  });
}

}  // namespace conclave
