// Perturbation: what a second player adds to every sample of a leaf so as to change the objective.
#ifndef CONCLAVE_MODELS_MODULES_PERTURBATION_H_
#define CONCLAVE_MODELS_MODULES_PERTURBATION_H_

#include <optional>
#include <utility>

#include "base/rng.h"
#include "data/batch.h"
#include "proto/model.pb.h"
#include "tensor/parameter_set.h"

namespace conclave {

// The values belong to the samples (BlockKind::kPerSample): a vector of `width` numbers for each row of a batch, inside a ball. They are
// found anew in every evaluation, from a start that only the sample's address decides, so that nobody else holds, exchanges or saves them.
// A row's values depend on that row alone. Immutable.
class Perturbation {
 public:
  struct Options {
    int64_t width = 0;
    std::optional<std::pair<double, double>> range;  // where features plus values stay; the values are then as wide as the features
  };
  Perturbation(const PerturbationConfig& config, const Options& options);

  const BlockSpec& block() const { return block_; }  // shape: that of one sample
  int64_t moves() const { return config_.moves(); }  // steps from the start to the last point
  int64_t held_out_moves() const { return config_.held_out_moves() > 0 ? config_.held_out_moves() : config_.moves(); }
  bool every_point() const { return config_.every_point(); }  // the objective's gradient is the mean over all points; else the last's

  // values: [batch.sequences, width], written. noise: of this leaf and site; row i draws elements (first_row + i) * width + j.
  void Start(const Batch& batch, const RngKey& noise, const Tensor& values) const;
  // One step, by `along` [batch.sequences, width]: the direction in which the player wants to go, of any length.
  void Move(const Batch& batch, const Tensor& along, const Tensor& values) const;

 private:
  template <typename T>
  void Project(const Batch& batch, int64_t row, std::span<T> values) const;

  PerturbationConfig config_;
  Options options_;
  BlockSpec block_;
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODULES_PERTURBATION_H_
