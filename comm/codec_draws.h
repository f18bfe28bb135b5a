// Where codecs draw their random words. A message has 2^40 of them: masks use the lower half, roundings the upper one, so that the stages
// of a composition are independent.
#ifndef CONCLAVE_COMM_CODEC_DRAWS_H_
#define CONCLAVE_COMM_CODEC_DRAWS_H_

#include <cstdint>
#include <span>

#include "base/rng.h"
#include "comm/compressor.h"

namespace conclave {

inline RngKey MaskDraws(const CodecKey& key) {
  return {.seed = key.seed,
          .site = static_cast<uint32_t>(key.block.value),
          .step = key.step,
          .worker = static_cast<uint32_t>(key.worker.value),
          .kind = RngKind::kCodec,
          .draw = key.draw};
}

// The same for all workers.
inline RngKey SharedMaskDraws(const CodecKey& key) {
  RngKey shared = MaskDraws(key);
  shared.worker = kSharedWorker;
  return shared;
}

// out[i] = the word that rounds coordinate first + i of what is encoded.
inline void FillRoundingDraws(const CodecKey& key, int64_t first, std::span<uint32_t> out) {
  constexpr uint64_t kFirstRounding = uint64_t{1} << 39;
  MaskDraws(key).FillBits(kFirstRounding + static_cast<uint64_t>(key.first + first), out);
}

}  // namespace conclave

#endif  // CONCLAVE_COMM_CODEC_DRAWS_H_
