// RowCodec: how the rows of an exchange are written, row by row.
#ifndef CONCLAVE_PARALLEL_ROW_CODEC_H_
#define CONCLAVE_PARALLEL_ROW_CODEC_H_

#include <memory>

#include "comm/compressor.h"
#include "proto/parallel.pb.h"
#include "tensor/arena.h"

namespace conclave {

// Rows of `width` f32 or f64, each by itself and the same wherever it stands: deterministic rounding with the contract of the codec it is
// made of. A row that is not finite, or beyond the codec's range, arrives as NaN. One caller at a time.
class RowCodec {
 public:
  // Null for EXACT. Errors: those of the codec.
  static absl::StatusOr<std::unique_ptr<RowCodec>> Make(DispatchConfig::Wire wire, int64_t width, DType dtype);

  int64_t row_bytes() const { return row_bytes_; }
  CodecContract Contract() const { return codec_->Contract(); }  // of a row
  // rows: [m, width], wire: u8 [m, row_bytes].
  void Encode(const Tensor& rows, const Tensor& wire) const;
  absl::Status Decode(const Tensor& wire, const Tensor& rows) const;
  // What would arrive, in place.
  absl::Status Round(Arena& arena, const Tensor& rows) const;

 private:
  explicit RowCodec(std::unique_ptr<Compressor> codec) : codec_(std::move(codec)), row_bytes_(codec_->MaxWireBytes()) {}
  std::unique_ptr<Compressor> codec_;
  int64_t row_bytes_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ROW_CODEC_H_
