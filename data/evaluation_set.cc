#include "data/evaluation_set.h"

#include <algorithm>

#include "base/check.h"
#include "base/rng.h"

namespace conclave {

EvaluationSet::EvaluationSet(std::vector<std::unique_ptr<Source>> parts) : parts_(std::move(parts)) {
  for (const auto& part : parts_) begins_.push_back(begins_.back() + part->size());
}

absl::Status EvaluationSet::Fill(int64_t batch, int64_t rows, BatchBuffer* buffer) const {
  CHECK(batch >= 0 && batch < batches(rows)) << "batch " << batch << " of " << batches(rows);
  const int64_t first = batch * rows;
  Batch& filled = buffer->Resize(std::min(rows, size() - first));
  filled.worker = {static_cast<int>(kSharedWorker)};
  filled.first_row = first;
  for (int64_t row = 0; row < filled.sequences; ++row) {
    const int64_t sample = first + row;
    const auto part = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), sample) - begins_.begin() - 1);
    RETURN_IF_ERROR(parts_[part]->Fetch(sample - begins_[part], 0, row, &filled));
  }
  return absl::OkStatus();
}

}  // namespace conclave
