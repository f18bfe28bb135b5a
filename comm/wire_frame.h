// The frame around one worker's message: 32 bytes, little-endian, then the payload.
//   magic 4 | version 2 | kind 2 | block 4 | worker 4 | step 4 | draw 2 | part 2 | payload bytes 4 | crc32c of all before and of the
//   payload 4
#ifndef CONCLAVE_COMM_WIRE_FRAME_H_
#define CONCLAVE_COMM_WIRE_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "comm/compressor.h"

namespace conclave {

inline constexpr int64_t kFrameBytes = 32;

enum class FrameKind : uint16_t {
  kValues = 0,
  kAbsent = 1,  // the worker put no such block: +0, no payload
  kPoison = 2,  // the worker's vector is not finite: no payload; every rank decodes it to NaN
};

// Writes the frame in front of a payload that already stands at buffer[kFrameBytes ..].
void WriteFrame(std::span<std::byte> buffer, const CodecKey& key, FrameKind kind, int64_t payload_bytes);

struct Frame {
  FrameKind kind = FrameKind::kValues;
  std::span<const std::byte> payload;
};
// Errors: DataLoss, with the worker, for a frame that is damaged or belongs to another message than `key`. Reads nothing outside the
// buffer.
absl::StatusOr<Frame> ReadFrame(std::span<const std::byte> buffer, const CodecKey& key);

// Bytes of the framed message at the front of `buffer`, as its header says (checked by ReadFrame only); kFrameBytes where not even a header
// fits.
int64_t FramedBytes(std::span<const std::byte> buffer);

}  // namespace conclave

#endif  // CONCLAVE_COMM_WIRE_FRAME_H_
