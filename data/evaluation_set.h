// EvaluationSet: the held-out samples, in a fixed order.
#ifndef CONCLAVE_DATA_EVALUATION_SET_H_
#define CONCLAVE_DATA_EVALUATION_SET_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "data/source.h"

namespace conclave {

// The validation parts of all sources, one after the other, without shuffling: batch i holds samples i * rows .. (i + 1) * rows - 1, the
// last one what is left. Which batch is evaluated where is the caller's choice, so the result need not depend on the rank count. Const
// methods are thread-safe.
class EvaluationSet {
 public:
  EvaluationSet() = default;
  explicit EvaluationSet(std::vector<std::unique_ptr<Source>> parts);

  int64_t size() const { return begins_.back(); }  // samples; 0: nothing is held out
  int64_t batches(int64_t rows) const { return (size() + rows - 1) / rows; }
  // Noise drawn for a row depends on its sample alone: worker kSharedWorker, step 0, first_row = batch * rows. Errors: those of the source.
  absl::Status Fill(int64_t batch, int64_t rows, BatchBuffer* buffer) const;

 private:
  std::vector<std::unique_ptr<Source>> parts_;
  std::vector<int64_t> begins_{0};
};

}  // namespace conclave

#endif  // CONCLAVE_DATA_EVALUATION_SET_H_
