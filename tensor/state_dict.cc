#include "tensor/state_dict.h"

namespace conclave {

void StateDict::Add(const std::string& part, const FlatVector& vector) {
  const Layout& layout = vector.layout();
  for (const BlockId id : layout.local_blocks()) {
    Add(StateEntry{.name = part + "/" + layout.parameters()[id].name, .data = vector.block(id), .canonical = layout.is_canonical(id)});
  }
}

void StateDict::AddScalar(std::string name, int64_t* value) {
  scalars_.push_back(
      {std::move(name), [value] { return static_cast<double>(*value); }, [value](double v) { *value = static_cast<int64_t>(v); }});
}

void StateDict::AddScalar(std::string name, double* value) {
  scalars_.push_back({std::move(name), [value] { return *value; }, [value](double v) { *value = v; }});
}

}  // namespace conclave
