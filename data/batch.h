// Batch: the samples of one leaf, as a model sees them.
#ifndef CONCLAVE_DATA_BATCH_H_
#define CONCLAVE_DATA_BATCH_H_

#include <cstdint>

#include "tensor/ids.h"
#include "tensor/tensor.h"

namespace conclave {

inline constexpr int32_t kIgnoredTarget = -1;

// What one sample of a source looks like. Sources that are mixed must agree.
struct SampleShape {
  enum class Kind { kTokens, kFeatures, kLabelled, kNone };  // kLabelled: features of a known class
  Kind kind = Kind::kNone;
  int64_t width = 0;  // tokens: context T; features, labelled: dimension d; none: 0
  const char* unit() const { return kind == Kind::kTokens ? "tokens" : "samples"; }  // what losses are means over
  bool operator==(const SampleShape&) const = default;
};

// Views into memory that a BatchBuffer owns. What the sample shape does not call for is undefined (Tensor::defined() is false).
struct Batch {
  Tensor tokens;          // [sequences, T] i32, each in [0, vocabulary)
  Tensor targets;         // [sequences, T] i32; kIgnoredTarget: no loss there. Labelled: [sequences, 1], the class, at least 0
  Tensor features;        // [sequences, d] f32 or f64
  int64_t sequences = 0;  // rows: sequences or samples; 0 is legal (a FULL share smaller than the number of leaves)
  int64_t count = 0;      // what the loss is divided by once summed over all leaves: targets that count, or samples

  // Addresses the noise drawn for these rows: row i of the batch is row first_row + i of the worker's share under this key.
  SampleKey key;
  WorkerId worker;
  int64_t first_row = 0;
};

// The first `rows` rows of `batch`; `count` is cut in proportion, and at least 1.
Batch FirstRows(const Batch& batch, int64_t rows);

// Owns the memory of one batch. Resize allocates only where more rows are asked for than ever before. Not thread-safe.
class BatchBuffer {
 public:
  BatchBuffer(const SampleShape& shape, int64_t rows, DType features);

  const SampleShape& shape() const { return shape_; }
  // Views of `rows` rows, contents unspecified; earlier views become invalid if the memory grows. The caller fills in the rest.
  Batch& Resize(int64_t rows);
  const Batch& batch() const { return batch_; }
  int64_t bytes() const;

 private:
  void Reserve(int64_t rows);
  SampleShape shape_;
  DType feature_dtype_;
  int64_t capacity_ = 0;
  OwnedTensor tokens_, targets_, features_;
  Batch batch_;
};

}  // namespace conclave

#endif  // CONCLAVE_DATA_BATCH_H_
