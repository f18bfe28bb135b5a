// The codecs a config can name. Each is one file in comm/compressors.
#ifndef CONCLAVE_COMM_COMPRESSORS_H_
#define CONCLAVE_COMM_COMPRESSORS_H_

#include <memory>

#include "comm/compressor.h"
#include "proto/comm.pb.h"

namespace conclave {

// What a codec is built for.
struct CompressorContext {
  Shape shape;                // of the block
  DType dtype = DType::kF32;  // f32 or f64: values travel in this dtype
  int workers = 1;            // M
};

using CompressorOr = absl::StatusOr<std::unique_ptr<Compressor>>;

// Errors: InvalidArgument for a codec that cannot be, with the values.
CompressorOr MakeCompressor(const CodecConfig& config, const CompressorContext& context);

CompressorOr MakeIdentityCodec(const IdentityCodecConfig& config, const CompressorContext& context);
CompressorOr MakeRandKCodec(const RandKConfig& config, const CompressorContext& context);

}  // namespace conclave

#endif  // CONCLAVE_COMM_COMPRESSORS_H_
