// Many random numbers at a time.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "base/rng.h"
#include "base/simd.h"

namespace conclave {
namespace {

constexpr int kLanes = 32;              // Philox blocks at a time
constexpr int64_t kGroup = 4 * kLanes;  // words

// Philox 4x32-10 of the counters first + lane, all lanes side by side. With 32 lanes the compiler makes vectors of the inner loop; fewer it
// would unroll instead.
CONCLAVE_INLINE void PhiloxLanes(const RngKey& key, uint64_t first, uint32_t* out) {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  const uint32_t purpose = (static_cast<uint32_t>(key.kind) << 4) | (key.draw & 0xF);
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t index = (uint64_t{key.site & 0xFFFFFF} << 40) | ((first + static_cast<uint64_t>(i)) & 0xFFFFFFFFFF);
    c0[i] = static_cast<uint32_t>(index);
    c1[i] = static_cast<uint32_t>(index >> 32);
    c2[i] = key.step;
    c3[i] = (key.worker << 16) | (purpose & 0xFFFF);
  }
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0[i], p1 = uint64_t{0xCD9E8D57} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (int i = 0; i < kLanes; ++i) {
    out[4 * i] = c0[i];
    out[4 * i + 1] = c1[i];
    out[4 * i + 2] = c2[i];
    out[4 * i + 3] = c3[i];
  }
}

// The same with AVX-512 by hand. A 32-bit word lies in the low half of a 64-bit lane; what is left in the high halves is ignored by the
// multiplication, so that a round is two products, two shifts and two exclusive ors for eight blocks. The compiler, which must clear the
// high halves and takes a 64-bit product, needs two and a half times as long.
__attribute__((target("avx512f"))) void FillGroupsAvx512(const RngKey& key, uint64_t first, uint32_t* out, int64_t groups) {
  constexpr int kVectors = kLanes / 8;
  constexpr __mmask8 kAll = 0xFF;  // the unmasked forms draw false warnings from g++ 12
  const uint32_t purpose = (static_cast<uint32_t>(key.kind) << 4) | (key.draw & 0xF);
  const __m512i site = _mm512_set1_epi64(static_cast<int64_t>(uint64_t{key.site & 0xFFFFFF} << 40));
  const __m512i step = _mm512_set1_epi64(key.step), last = _mm512_set1_epi64((key.worker << 16) | (purpose & 0xFFFF));
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57), element = _mm512_set1_epi64(0xFFFFFFFFFF);
  const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  for (int64_t g = 0; g < groups; ++g) {
    __m512i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (int u = 0; u < kVectors; ++u) {
      const auto begin = static_cast<int64_t>(first + static_cast<uint64_t>(g * kLanes + u * 8));
      const __m512i block = _mm512_and_epi64(_mm512_add_epi64(_mm512_set1_epi64(begin), lanes), element);
      c0[u] = _mm512_or_epi64(site, block);
      c1[u] = _mm512_maskz_srli_epi64(kAll, c0[u], 32);
      c2[u] = step;
      c3[u] = last;
    }
    uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
      for (int u = 0; u < kVectors; ++u) {
        const __m512i p0 = _mm512_maskz_mul_epu32(kAll, m0, c0[u]), p1 = _mm512_maskz_mul_epu32(kAll, m1, c2[u]);
        c0[u] = _mm512_xor_epi64(_mm512_xor_epi64(_mm512_maskz_srli_epi64(kAll, p1, 32), c1[u]), key0);
        c1[u] = p1;
        c2[u] = _mm512_xor_epi64(_mm512_xor_epi64(_mm512_maskz_srli_epi64(kAll, p0, 32), c3[u]), key1);
        c3[u] = p0;
      }
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    for (int u = 0; u < kVectors; ++u) {
      const __m512i a = _mm512_mask_blend_epi32(0xAAAA, c0[u], _mm512_maskz_slli_epi64(kAll, c1[u], 32));
      const __m512i b = _mm512_mask_blend_epi32(0xAAAA, c2[u], _mm512_maskz_slli_epi64(kAll, c3[u], 32));
      uint32_t* const words = out + g * kGroup + u * 32;
      _mm512_storeu_si512(words, _mm512_permutex2var_epi64(a, low, b));
      _mm512_storeu_si512(words + 16, _mm512_permutex2var_epi64(a, high, b));
    }
  }
}

// groups of kGroup words from Philox block `first` on.
CONCLAVE_SIMD void FillGroups(const RngKey& key, uint64_t first, uint32_t* out, int64_t groups) {
  for (int64_t g = 0; g < groups; ++g) PhiloxLanes(key, first + static_cast<uint64_t>(g) * kLanes, out + g * kGroup);
}

constexpr size_t kChunk = 256;  // words on the stack

// ln((r + 1/2) / 2^32), to about one unit in the last place: the algorithm of FreeBSD's msun (s = f / (2 + f), a polynomial in s^2). Every
// product that is added to is an explicit fma, so that no compiler joins others: the bits are the same with and without vectors.
CONCLAVE_INLINE double LogOfDraw(uint32_t r) {
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  constexpr uint64_t kRootOfHalf = 0x3FE6A09E667F3BCD;
  const uint64_t bits = std::bit_cast<uint64_t>((static_cast<double>(r) + 0.5) * 0x1p-32);
  const int64_t exponent = static_cast<int64_t>(bits - kRootOfHalf) >> 52;
  const double k = static_cast<double>(static_cast<int32_t>(exponent));
  const double f = std::bit_cast<double>(bits - (static_cast<uint64_t>(exponent) << 52)) - 1;  // [root of 1/2, root of 2) - 1
  const double s = f / (2 + f), z = s * s;
  double p = 1.479819860511658591e-01;
  p = std::fma(z, p, 1.531383769920937332e-01);
  p = std::fma(z, p, 1.818357216161805012e-01);
  p = std::fma(z, p, 2.222219843214978396e-01);
  p = std::fma(z, p, 2.857142874366239149e-01);
  p = std::fma(z, p, 3.999999999940941908e-01);
  p = std::fma(z, p, 6.666666666666735130e-01);
  const double half = 0.5 * f;
  const double rest = std::fma(half, f, -std::fma(s, std::fma(z, p, half * f), k * kLn2Low));
  return std::fma(k, kLn2High, f - rest);
}

// cos(2 pi a / 2^32), to about one unit in the last place, likewise: the nearest quarter turn exactly, the rest by polynomials.
CONCLAVE_INLINE double CosOfDraw(uint32_t a) {
  const uint32_t quarter = (a + (uint32_t{1} << 29)) >> 30;
  const double x = static_cast<double>(static_cast<int32_t>(a - (quarter << 30))) * (2 * std::numbers::pi * 0x1p-32), z = x * x;
  double c = -1.13596475577881948265e-11;
  c = std::fma(z, c, 2.08757232129817482790e-09);
  c = std::fma(z, c, -2.75573143513906633035e-07);
  c = std::fma(z, c, 2.48015872894767294178e-05);
  c = std::fma(z, c, -1.38888888888741095749e-03);
  c = std::fma(z, c, 4.16666666666666019037e-02);
  const double cosine = std::fma(z, std::fma(z, c, -0.5), 1);
  double d = 1.58969099521155010221e-10;
  d = std::fma(z, d, -2.50507602534068634195e-08);
  d = std::fma(z, d, 2.75573137070700676789e-06);
  d = std::fma(z, d, -1.98412698298579493134e-04);
  d = std::fma(z, d, 8.33333333332248946124e-03);
  d = std::fma(z, d, -1.66666666666666324348e-01);
  const double sine = std::fma(x * z, d, x);
  const double value = (quarter & 1) != 0 ? sine : cosine;
  return ((quarter + 1) & 2) != 0 ? -value : value;  // cos, -sin, -cos, sin
}

// words: two a number. out: float or double.
template <typename T>
CONCLAVE_INLINE void BoxMuller(const uint32_t* words, size_t n, T* out) {
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<T>(std::sqrt(-2.0 * LogOfDraw(words[2 * i])) * CosOfDraw(words[2 * i + 1]));
}
CONCLAVE_SIMD void Normals(const uint32_t* words, size_t n, float* out) { BoxMuller(words, n, out); }
CONCLAVE_SIMD void Normals(const uint32_t* words, size_t n, double* out) { BoxMuller(words, n, out); }

// Calls use(words, first, n) for the numbers of `count` elements of `width` words, in order, a stack's worth at a time.
template <typename F>
void ForEachChunk(const RngKey& key, uint64_t first, size_t count, size_t width, const F& use) {
  uint32_t words[kChunk];
  for (size_t at = 0; at < count; at += kChunk / width) {
    const size_t n = std::min(kChunk / width, count - at);
    key.FillBits((first + at) * width, std::span(words).first(n * width));
    use(words, at, n);
  }
}

}  // namespace

void RngKey::FillBits(uint64_t first, std::span<uint32_t> out) const {
  static const bool kAvx512 = __builtin_cpu_supports("avx512f") != 0;
  size_t i = 0;
  // Single blocks up to the next whole one, and what is left behind the groups.
  const auto singly = [&](size_t end) {
    while (i < end) {
      const std::array<uint32_t, 4> words = Block((first + i) / 4);
      do {
        out[i] = words[(first + i) % 4];
        ++i;
      } while (i < end && (first + i) % 4 != 0);
    }
  };
  singly(std::min(out.size(), static_cast<size_t>(-first % 4)));
  const size_t groups = (out.size() - i) / kGroup;
  (kAvx512 ? FillGroupsAvx512 : FillGroups)(*this, (first + i) / 4, out.data() + i, static_cast<int64_t>(groups));
  i += groups * kGroup;
  singly(out.size());
}

void RngKey::FillUniform(uint64_t first, std::span<float> out) const {
  ForEachChunk(*this, first, out.size(), 1, [&](const uint32_t* words, size_t at, size_t n) {
    for (size_t i = 0; i < n; ++i) out[at + i] = static_cast<float>(words[i] >> 8) * 0x1p-24f;
  });
}

void RngKey::FillNormal(uint64_t first, std::span<double> out) const {
  ForEachChunk(*this, first, out.size(), 2, [&](const uint32_t* words, size_t at, size_t n) { Normals(words, n, out.data() + at); });
}

void RngKey::FillNormal(uint64_t first, std::span<float> out) const {
  ForEachChunk(*this, first, out.size(), 2, [&](const uint32_t* words, size_t at, size_t n) { Normals(words, n, out.data() + at); });
}

}  // namespace conclave
