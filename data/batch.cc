#include "data/batch.h"

namespace conclave {

BatchBuffer::BatchBuffer(const SampleShape& shape, int64_t rows, DType features) : shape_(shape), feature_dtype_(features) {
  CHECK(features == DType::kF32 || features == DType::kF64) << NameOf(features);
  Reserve(rows);
  Resize(rows);
}

void BatchBuffer::Reserve(int64_t rows) {
  capacity_ = rows;
  const Shape shape = {rows, shape_.width};
  if (shape_.kind == SampleShape::Kind::kTokens) {
    tokens_ = OwnedTensor(shape, DType::kI32);
    targets_ = OwnedTensor(shape, DType::kI32);
  } else if (shape_.kind == SampleShape::Kind::kFeatures) {
    features_ = OwnedTensor(shape, feature_dtype_);
  }
}

Batch& BatchBuffer::Resize(int64_t rows) {
  CHECK_GE(rows, 0);
  if (rows > capacity_) Reserve(rows);
  batch_ = {};
  batch_.sequences = rows;
  if (shape_.kind == SampleShape::Kind::kTokens) {
    batch_.tokens = tokens_->Slice(0, rows);
    batch_.targets = targets_->Slice(0, rows);
  } else if (shape_.kind == SampleShape::Kind::kFeatures) {
    batch_.features = features_->Slice(0, rows);
  }
  return batch_;
}

}  // namespace conclave
