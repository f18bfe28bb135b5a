// Strong types for ids that must not be swapped.
#ifndef CONCLAVE_TENSOR_IDS_H_
#define CONCLAVE_TENSOR_IDS_H_

#include <compare>
#include <cstdint>

namespace conclave {

// A worker: a fixed logical share of the global batch, 0..M-1.
struct WorkerId {
  int value = 0;
  auto operator<=>(const WorkerId&) const = default;
};

// A parameter block: its position in the model's ParameterSet. Permanent: never depends on ranks or placement.
struct BlockId {
  int value = 0;
  auto operator<=>(const BlockId&) const = default;
};

// Names a batch and its noise. The same key gives the same samples and noise at any point.
struct SampleKey {
  uint32_t step = 0;  // attempts so far, skipped steps included
  uint32_t draw = 0;  // numbers the independent evaluations of one step, 0..15
  bool full = false;  // FULL: the worker's whole data set
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_IDS_H_
