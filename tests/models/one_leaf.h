// One leaf of a model on one rank: its objective at a point, and the gradient.
#ifndef CONCLAVE_TESTS_MODELS_ONE_LEAF_H_
#define CONCLAVE_TESTS_MODELS_ONE_LEAF_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/loopback.h"
#include "models/model.h"

namespace conclave {

// `text` as a ModelConfig with every default filled in.
ModelConfig ParseModelConfig(const std::string& text);

// A model made from `text`; a config that makes none fails the test and gives null.
std::unique_ptr<Model> ModelFromText(const std::string& text, const ModelContext& context = {});

// Random samples of a shape: tokens and targets below `vocabulary`, every seventh target ignored; or features, of two classes where those
// are known.
BatchBuffer RandomBatch(const SampleShape& shape, int64_t rows, int64_t vocabulary, DType dtype);

class OneLeaf : public GradientSlots {
 public:
  // Parameters start at their initial values. recompute: backward records blocks again. Collective on `world`, whose ranks all hold
  // experts.
  static absl::StatusOr<std::unique_ptr<OneLeaf>> Make(const Model* model, Communicator& world, DType dtype, bool recompute = false);

  FlatVector& point() { return point_; }
  FlatVector& gradient() { return gradient_; }
  const Layout& layout() const { return layout_; }
  Recorder& recorder() { return *recorder_; }
  ModelBuffers& buffers() { return buffers_; }
  const ExpertDispatch& dispatch() const { return dispatch_; }
  Tape& tape() { return tape_; }

  // Adds normal noise to every parameter, so that none sits at a special value. The same for any mesh.
  void Shake(double scale, uint64_t seed);
  // sum of coefficient * term over this leaf alone: sums over samples divided by their number.
  absl::StatusOr<double> Objective(const Batch& batch);
  // The same; gradient() holds its gradient.
  absl::StatusOr<double> Differentiate(const Batch& batch);
  // What a model's perturbation adds to the samples, [samples, width], from the first recording on where it starts them; and the gradient
  // by it. Undefined without a perturbation.
  Tensor sample_values() const { return *sample_values_; }
  Tensor sample_gradient() const { return *sample_gradient_; }
  // Term `term` of the last recording, unscaled.
  double Term(int term) const { return recorder_->values()[term]; }

  GradientSlot Slot(BlockId block) override { return {.first = gradient_.block(block)}; }

 private:
  OneLeaf(const Model* model, std::unique_ptr<Mesh> mesh, ExpertPlacement placement, DType dtype, bool recompute);

  const Model* model_;
  std::unique_ptr<Mesh> mesh_;
  ExpertPlacement placement_;
  Layout layout_;
  ExpertDispatch dispatch_;
  FlatVector point_, gradient_;
  OwnedTensor sample_values_, sample_gradient_;
  ModelBuffers buffers_;
  Arena arena_, segments_;
  Tape tape_;
  std::unique_ptr<Recorder> recorder_;
};

// Runs fn on a single rank; an error fails the test.
void OnOneRank(const Model& model, DType dtype, const std::function<absl::Status(OneLeaf&)>& fn, bool recompute = false);

// f64 or f32 values, widened.
std::vector<double> ValuesOf(const Tensor& tensor);

}  // namespace conclave

#endif  // CONCLAVE_TESTS_MODELS_ONE_LEAF_H_
