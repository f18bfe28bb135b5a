// The mixture-of-experts layer: softmax top-k router, dispatch, grouped experts, combine; balance loss and z-loss.
#ifndef CONCLAVE_MODELS_MODULES_MIXTURE_H_
#define CONCLAVE_MODELS_MODULES_MIXTURE_H_

#include <string>
#include <vector>

#include "models/modules/layers.h"

namespace conclave {

struct RouterOptions {
  int experts = 1, top_k = 1;
  bool post = false;        // softmax over the selected logits; else over all, before the selection
  bool renormalize = true;  // pre: divide by the sum of the selected
  MoeConfig::BalanceScope scope = MoeConfig::WORKER;
};

// One token's experts in descending score (equal scores: the lower expert id first), with differentiable weights.
struct Routing {
  Tensor ids;         // i32 [n, k] logical experts
  Var weights;        // [n, k]
  Var logits;         // [n, E]
  Var probabilities;  // [n, E], softmax over all experts
};

// logits: [n, E]. Non-finite logits poison the recorder (naming `layer` and the token) and route as if they were 0.
Routing RecordRouter(Recorder& r, Var logits, const RouterOptions& options, int layer);

// aux = E sum_i f_i P_i over the scope's tokens, f_i = count_i / (tokens k) constant in backward: 1 under uniform load. `counts`: i64 [E]
// of this leaf, scope GLOBAL: running over ranks and leaves of the evaluation. SEQUENCE: mean over `sequences` equal sequences. Scalar.
struct BalanceArgs {
  MoeConfig::BalanceScope scope = MoeConfig::WORKER;
  int64_t sequences = 1;
  std::span<const int64_t> counts;
};
Var BalanceLoss(Tape& tape, const Routing& routing, const BalanceArgs& args);

// mean over tokens of (logsumexp of the logits)^2. Scalar sum; the caller divides by n.
Var RouterZSum(Tape& tape, Var logits);

struct MixtureTerms {
  int balance = -1, z = -1;  // term ids; -1: absent
};

class MixtureLayer {
 public:
  struct Options {
    RouterOptions router;
    MlpOptions expert;
    int layer = 0;  // index among the MoE layers
    MixtureTerms terms;
  };
  static MixtureLayer Register(ParameterSet& parameters, const std::string& name, const Options& options);
  // x: [n, width], n = sequences * length; returns [n, width].
  absl::StatusOr<Var> Record(Recorder& r, Var x, int64_t sequences) const;

 private:
  absl::StatusOr<Var> RecordExperts(Recorder& r, Var rows, const DispatchPlan& plan) const;
  absl::Status RecordLosses(Recorder& r, const Routing& routing, int64_t sequences) const;

  Options options_;
  LinearLayer router_;
  std::vector<BlockId> up_, up_bias_, down_, down_bias_;  // by logical expert; biases empty if there are none
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODULES_MIXTURE_H_
