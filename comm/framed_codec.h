// A codec's messages in their frames.
#ifndef CONCLAVE_COMM_FRAMED_CODEC_H_
#define CONCLAVE_COMM_FRAMED_CODEC_H_

#include "comm/compressor.h"
#include "comm/wire_frame.h"

namespace conclave {

// Encodes x into buffer (frame and payload; kFrameBytes + MaxWireBytes long): as poison if x is not finite or beyond
// the codec's range, which key.cause learns unless it holds one of a lower worker or block. Returns the payload's bytes.
int64_t EncodeFramed(const Compressor& codec, const Tensor& x, const CodecKey& key, std::span<std::byte> buffer);
// The inverse. Poison gives NaN everywhere, absence +0. Errors: DataLoss.
absl::Status DecodeFramed(const Compressor& codec, std::span<const std::byte> buffer, const CodecKey& key, const Tensor& x);

}  // namespace conclave

#endif  // CONCLAVE_COMM_FRAMED_CODEC_H_
