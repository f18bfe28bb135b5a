#include "parallel/row_codec.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/compressors.h"

namespace conclave {
namespace {

// No encoder writes a row of these alone: the exponent, or the scale, that they would mean is no number's.
constexpr std::byte kPoison{0xFF};

bool IsFinite(const Tensor& row) {
  return DispatchFloat(row.dtype(),
                       [&](auto t) { return std::ranges::all_of(row.span<decltype(t)>(), [](auto v) { return std::isfinite(v); }); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<RowCodec>> RowCodec::Make(DispatchConfig::Wire wire, int64_t width, DType dtype) {
  CodecConfig config;
  switch (wire) {
    case DispatchConfig::BF16:
      config.mutable_bf16();
      break;
    case DispatchConfig::FP8:
      config.mutable_fp8();
      break;
    case DispatchConfig::INT8:
      config.mutable_block_int()->set_bits(8);
      config.mutable_block_int()->set_block(width);
      config.mutable_block_int()->set_rounding(BlockIntConfig::NEAREST);
      break;
    default:
      return std::unique_ptr<RowCodec>();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Compressor> codec, MakeCompressor(config, {.shape = {width}, .dtype = dtype, .name = "row"}));
  CHECK(codec->Contract().fixed_size);
  return std::unique_ptr<RowCodec>(new RowCodec(std::move(codec)));
}

void RowCodec::Encode(const Tensor& rows, const Tensor& wire) const {
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    const Tensor row = rows.Slice(i, 1).Flat();
    const std::span<std::byte> out = wire.Slice(i, 1).AsBytes();
    if (!IsFinite(row) || codec_->Encode(row, {}, out) == kBeyondRange) std::ranges::fill(out, kPoison);
  }
}

absl::Status RowCodec::Decode(const Tensor& wire, const Tensor& rows) const {
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    const Tensor row = rows.Slice(i, 1).Flat();
    const std::span<const std::byte> in = wire.Slice(i, 1).AsBytes();
    if (std::ranges::all_of(in, [](std::byte b) { return b == kPoison; })) {
      row.Fill(std::numeric_limits<double>::quiet_NaN());
    } else {
      RETURN_IF_ERROR(codec_->Decode(in, {}, row));
    }
  }
  return absl::OkStatus();
}

absl::Status RowCodec::Round(Arena& arena, const Tensor& rows) const {
  const Arena::Mark mark = arena.Here();
  const Tensor wire = arena.New({rows.dim(0), row_bytes_}, DType::kU8);
  Encode(rows, wire);
  const absl::Status status = Decode(wire, rows);
  arena.Rewind(mark);
  return status;
}

}  // namespace conclave
