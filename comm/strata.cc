#include "comm/strata.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/check.h"
#include "base/simd.h"
#include "comm/codec_draws.h"

namespace conclave {
namespace {

constexpr int64_t kMostStrata = 1024;       // at a time
constexpr int64_t kStretchElements = 4096;  // about: what is zeroed is still near when values come
constexpr int64_t kLeastStrata = 128;       // a group of random words

// words become positions, counted from the first coordinate of the first stratum.
CONCLAVE_SIMD void PositionsOf(uint32_t* words, uint32_t size, uint32_t offset, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t place = static_cast<uint32_t>((uint64_t{words[i]} * size) >> 32) + offset;
    place -= place >= size ? size : 0;
    words[i] = static_cast<uint32_t>(i) * size + place;
  }
}

template <typename T>
CONCLAVE_INLINE void GatherLoop(const T* __restrict x, const uint32_t* __restrict positions, T scale, T* __restrict kept, int64_t n) {
  for (int64_t i = 0; i < n; ++i) kept[i] = x[static_cast<int32_t>(positions[i])] * scale;
}
CONCLAVE_SIMD void GatherAt(const float* x, const uint32_t* positions, float scale, float* kept, int64_t n) {
  GatherLoop(x, positions, scale, kept, n);
}
CONCLAVE_SIMD void GatherAt(const double* x, const uint32_t* positions, double scale, double* kept, int64_t n) {
  GatherLoop(x, positions, scale, kept, n);
}

// Calls f(first stratum, n, positions) for stretches of whole strata; positions[i] counts from the first one's first coordinate.
template <typename F>
void ForStretches(const Strata& strata, F&& f) {
  CHECK(strata.size >= 1 && strata.size <= kLargestStratum && strata.offset >= 0 && strata.offset < strata.size) << strata.size;
  const int64_t count = strata.count();
  const int64_t stretch = std::clamp(kStretchElements / strata.size / kLeastStrata * kLeastStrata, kLeastStrata, kMostStrata);
  std::array<uint32_t, kMostStrata> words;
  for (int64_t first = 0; first < count; first += stretch) {
    const int64_t n = std::min(stretch, count - first);
    FillDraws(strata.draws, strata.first_word + static_cast<uint64_t>(first), std::span(words).first(static_cast<size_t>(n)));
    PositionsOf(words.data(), static_cast<uint32_t>(strata.size), static_cast<uint32_t>(strata.offset), n);
    f(first, n, words.data());
  }
}

}  // namespace

void GatherKept(const Strata& strata, const Tensor& x, double scale, const Tensor& kept) {
  CHECK(x.elements() == strata.elements && kept.elements() == strata.count());
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    ForStretches(strata, [&](int64_t first, int64_t n, const uint32_t* positions) {
      const int64_t begin = first * strata.size;
      T* const out = kept.data<T>() + first;
      const bool behind = begin + positions[n - 1] >= strata.elements;  // the last one of all
      GatherAt(x.data<T>() + begin, positions, static_cast<T>(scale), out, behind ? n - 1 : n);
      if (behind) out[n - 1] = T{0};
    });
  });
}

void ScatterKept(const Strata& strata, const Tensor& kept, const Tensor& x) {
  CHECK(x.elements() == strata.elements && kept.elements() == strata.count());
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    ForStretches(strata, [&](int64_t first, int64_t n, const uint32_t* positions) {
      const int64_t begin = first * strata.size, end = std::min(strata.elements, (first + n) * strata.size);
      const T* const in = kept.data<T>() + first;
      T* const out = x.data<T>() + begin;
      std::fill(out, out + (end - begin), T{0});
      const bool behind = begin + positions[n - 1] >= strata.elements;
      for (int64_t i = 0; i < (behind ? n - 1 : n); ++i) out[positions[i]] = in[i];
    });
  });
}

}  // namespace conclave
