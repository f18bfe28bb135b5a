#include "comm/codec_draws.h"

#include <immintrin.h>

#include <algorithm>

#include "base/simd.h"

namespace conclave {
namespace {

constexpr uint64_t kFirstRounding = uint64_t{1} << 39;
constexpr int kLanes = 32;              // Philox blocks at a time
constexpr int64_t kGroup = 4 * kLanes;  // words

// Philox 4x32-10 (base/rng.h) of the counters first + lane, all lanes side by side: the words that RngKey::FillBits gives. With 32 lanes
// the compiler makes vectors of the inner loop; fewer it would unroll instead.
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

}  // namespace

void FillDraws(const RngKey& draws, uint64_t first, std::span<uint32_t> out) {
  if (first % 4 != 0) return draws.FillBits(first, out);
  const int64_t groups = static_cast<int64_t>(out.size()) / kGroup;
  static const bool kAvx512 = __builtin_cpu_supports("avx512f") != 0;
  (kAvx512 ? FillGroupsAvx512 : FillGroups)(draws, first / 4, out.data(), groups);
  const auto done = static_cast<size_t>(groups * kGroup);
  draws.FillBits(first + done, out.subspan(done));
}

void FillRoundingDraws(const CodecKey& key, int64_t first, std::span<uint32_t> out) {
  FillDraws(MaskDraws(key), kFirstRounding + static_cast<uint64_t>(key.first + first), out);
}

}  // namespace conclave
