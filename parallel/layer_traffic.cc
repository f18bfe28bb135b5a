#include "parallel/layer_traffic.h"

#include <type_traits>

namespace conclave {

static_assert(std::is_trivially_copyable_v<LayerTraffic> && sizeof(LayerTraffic) == 11 * sizeof(int64_t));

LayerTraffic& LayerTraffic::operator+=(const LayerTraffic& other) {
  rows += other.rows, rest += other.rest;
  for (size_t i = 0; i < token_bytes.size(); ++i) token_bytes[i] += other.token_bytes[i];
  return *this;
}

absl::Status SumTraffic(Communicator& control, std::vector<LayerTraffic>* layers) {
  const auto integers = static_cast<int64_t>(layers->size() * sizeof(LayerTraffic) / sizeof(int64_t));
  return control.AllReduce("dispatch traffic", Tensor(layers->data(), {integers}, DType::kI64), ReduceOp::kSum);
}

}  // namespace conclave
