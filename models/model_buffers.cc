#include "models/model_buffers.h"

namespace conclave {

ModelBuffers::ModelBuffers(std::vector<BufferSpec> specs) : specs_(std::move(specs)) {
  for (const BufferSpec& spec : specs_) tensors_.emplace_back(Shape{spec.elements}, DType::kF32);
}

void ModelBuffers::Register(const std::string& part, bool canonical, StateDict& state) const {
  for (int i = 0; i < size(); ++i) state.Add({.name = part + "/" + specs_[i].name, .data = *tensors_[i], .canonical = canonical});
}

}  // namespace conclave
