#include "comm/framed_codec.h"

#include <limits>

#include "tensor/reduce.h"

namespace conclave {

int64_t EncodeFramed(const Compressor& codec, const Tensor& x, const CodecKey& key, std::span<std::byte> buffer) {
  if (!AllFinite(x)) {
    WriteFrame(buffer, key, FrameKind::kPoison, 0);
    return 0;
  }
  const int64_t payload = codec.Encode(x, key, buffer.subspan(kFrameBytes));
  if (payload == kBeyondRange) {
    WriteFrame(buffer, key, FrameKind::kPoison, 0);
    return 0;
  }
  WriteFrame(buffer, key, FrameKind::kValues, payload);
  return payload;
}

absl::Status DecodeFramed(const Compressor& codec, std::span<const std::byte> buffer, const CodecKey& key, const Tensor& x) {
  ASSIGN_OR_RETURN(const Frame frame, ReadFrame(buffer, key));
  switch (frame.kind) {
    case FrameKind::kValues:
      return codec.Decode(frame.payload, key, x);
    case FrameKind::kAbsent:
      x.Zero();
      return absl::OkStatus();
    case FrameKind::kPoison:
      x.Fill(std::numeric_limits<double>::quiet_NaN());
      return absl::OkStatus();
  }
  return absl::InternalError("unknown frame kind");
}

}  // namespace conclave
