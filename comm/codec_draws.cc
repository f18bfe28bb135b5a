#include "comm/codec_draws.h"

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

// groups of kGroup words from Philox block `first` on.
CONCLAVE_SIMD void FillGroups(const RngKey& key, uint64_t first, uint32_t* out, int64_t groups) {
  for (int64_t g = 0; g < groups; ++g) PhiloxLanes(key, first + static_cast<uint64_t>(g) * kLanes, out + g * kGroup);
}

}  // namespace

void FillDraws(const RngKey& draws, uint64_t first, std::span<uint32_t> out) {
  if (first % 4 != 0) return draws.FillBits(first, out);
  const int64_t groups = static_cast<int64_t>(out.size()) / kGroup;
  FillGroups(draws, first / 4, out.data(), groups);
  const auto done = static_cast<size_t>(groups * kGroup);
  draws.FillBits(first + done, out.subspan(done));
}

void FillRoundingDraws(const CodecKey& key, int64_t first, std::span<uint32_t> out) {
  FillDraws(MaskDraws(key), kFirstRounding + static_cast<uint64_t>(key.first + first), out);
}

}  // namespace conclave
