// Source: an index-addressed set of samples. A new one is one file in sources/, one message in proto/data.proto, one line in the factory.
#ifndef CONCLAVE_DATA_SOURCE_H_
#define CONCLAVE_DATA_SOURCE_H_

#include <cstdint>

#include "base/status.h"
#include "data/batch.h"

namespace conclave {

// Immutable once made; const methods are thread-safe and hold no cursor: equal arguments give equal bits on every rank.
class Source {
 public:
  virtual ~Source() = default;

  virtual SampleShape shape() const = 0;
  // Samples in an epoch, at least 1 unless the model needs none.
  virtual int64_t size() const = 0;
  // Writes sample `sample` (in [0, size())) as seen in epoch `epoch` (0, 1, ...) into row `row` of `batch` and adds what the row counts for
  // to batch->count. Only window positions depend on the epoch. Errors: InvalidArgument for data that cannot be a sample, such as a token
  // outside the vocabulary.
  virtual absl::Status Fetch(int64_t sample, int64_t epoch, int64_t row, Batch* batch) const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_DATA_SOURCE_H_
