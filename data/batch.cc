#include "data/batch.h"

#include <algorithm>

namespace conclave {

Batch FirstRows(const Batch& batch, int64_t rows) {
  CHECK(rows >= 0 && rows <= batch.sequences) << rows << " of " << batch.sequences;
  Batch first = batch;
  for (Tensor* part : {&first.tokens, &first.targets, &first.features}) {
    if (part->defined()) *part = part->Slice(0, rows);
  }
  first.sequences = rows;
  first.count = std::max<int64_t>(1, batch.sequences == 0 ? 0 : batch.count * rows / batch.sequences);
  return first;
}

BatchBuffer::BatchBuffer(const SampleShape& shape, int64_t rows, DType features) : shape_(shape), feature_dtype_(features) {
  CHECK(features == DType::kF32 || features == DType::kF64) << NameOf(features);
  Reserve(rows);
  Resize(rows);
}

int64_t BatchBuffer::bytes() const {
  int64_t total = 0;
  for (const OwnedTensor* part : {&tokens_, &targets_, &features_}) total += (*part)->defined() ? (*part)->bytes() : 0;
  return total;
}

void BatchBuffer::Reserve(int64_t rows) {
  capacity_ = rows;
  const Shape shape = {rows, shape_.width};
  const bool tokens = shape_.kind == SampleShape::Kind::kTokens, labelled = shape_.kind == SampleShape::Kind::kLabelled;
  if (tokens) tokens_ = OwnedTensor(shape, DType::kI32);
  if (tokens || labelled) targets_ = OwnedTensor({rows, labelled ? 1 : shape_.width}, DType::kI32);
  if (labelled || shape_.kind == SampleShape::Kind::kFeatures) features_ = OwnedTensor(shape, feature_dtype_);
}

Batch& BatchBuffer::Resize(int64_t rows) {
  CHECK_GE(rows, 0);
  if (rows > capacity_) Reserve(rows);
  batch_ = {};
  batch_.sequences = rows;
  if (tokens_->defined()) batch_.tokens = tokens_->Slice(0, rows);
  if (targets_->defined()) batch_.targets = targets_->Slice(0, rows);
  if (features_->defined()) batch_.features = features_->Slice(0, rows);
  return batch_;
}

}  // namespace conclave
