// The codecs a config can name. Each is one file in comm/compressors.
#ifndef CONCLAVE_COMM_COMPRESSORS_H_
#define CONCLAVE_COMM_COMPRESSORS_H_

#include <memory>
#include <string>

#include "comm/compressor.h"
#include "proto/comm.pb.h"

namespace conclave {

// What a codec is built for.
struct CompressorContext {
  Shape shape;                // of the block
  DType dtype = DType::kF32;  // f32 or f64: values travel in this dtype
  int workers = 1;            // M
  std::string name;           // of the block, for blockwise rules
};

using CompressorOr = absl::StatusOr<std::unique_ptr<Compressor>>;

// Errors: InvalidArgument for a codec that cannot be, with the values.
CompressorOr MakeCompressor(const CodecConfig& config, const CompressorContext& context);

CompressorOr MakeIdentityCodec(const IdentityCodecConfig& config, const CompressorContext& context);
CompressorOr MakeRandKCodec(const RandKConfig& config, const CompressorContext& context);
CompressorOr MakeNaturalCodec(const NaturalConfig& config, const CompressorContext& context);
CompressorOr MakeQsgdCodec(const QsgdConfig& config, const CompressorContext& context);
CompressorOr MakeBlockIntCodec(const BlockIntConfig& config, const CompressorContext& context);
CompressorOr MakePermKCodec(const PermKConfig& config, const CompressorContext& context);
CompressorOr MakeTopKCodec(const TopKConfig& config, const CompressorContext& context);
CompressorOr MakeTernaryCodec(const TernaryConfig& config, const CompressorContext& context);
CompressorOr MakeScaledSignCodec(const ScaledSignConfig& config, const CompressorContext& context);
CompressorOr MakeBf16Codec(const Bf16CodecConfig& config, const CompressorContext& context);
CompressorOr MakeFp8Codec(const Fp8CodecConfig& config, const CompressorContext& context);
CompressorOr MakeRandomBlockCodec(const RandomBlockConfig& config, const CompressorContext& context);
CompressorOr MakeLowRankCodec(const LowRankConfig& config, const CompressorContext& context);
// Not a codec of its own: the one that the rules name for this block.
CompressorOr MakeBlockwiseCodec(const BlockwiseConfig& config, const CompressorContext& context);

}  // namespace conclave

#endif  // CONCLAVE_COMM_COMPRESSORS_H_
