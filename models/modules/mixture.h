// The mixture-of-experts layer: router, dispatch, grouped experts, combine, the shared expert; balance loss and z-loss.
#ifndef CONCLAVE_MODELS_MODULES_MIXTURE_H_
#define CONCLAVE_MODELS_MODULES_MIXTURE_H_

#include <string>
#include <vector>

#include "models/modules/layers.h"
#include "models/modules/router.h"

namespace conclave {

struct MixtureTerms {
  int balance = -1, z = -1;  // term ids; -1: absent
  int layer_balance = -1;    // the balance loss of this layer alone, which is reported only; -1: not reported
};

class MixtureLayer {
 public:
  struct Options {
    RouterOptions router;
    MlpOptions expert;
    int layer = 0;  // index among the MoE layers
    MixtureTerms terms;
    int64_t shared_hidden = 0;  // inner width of the expert that sees every token; 0: none
    bool shared_gate = false;   // its output times the sigmoid of a projection of the token
    int dropped_counter = -1;   // counter of the slots that found no room; -1: not counted
    int bias_buffer = -1;       // model buffer of the router's bias, [experts]; -1: none
  };
  static MixtureLayer Register(ParameterSet& parameters, const std::string& name, const Options& options);
  // x: [n, width], n = sequences * length; returns [n, width].
  absl::StatusOr<Var> Record(Recorder& r, Var x, int64_t sequences) const;
  // The same where tokens stay with their experts. x: [n, width] the stream before `norm`, of the travel's tokens; returns the stream after
  // the layer, [t, width], of the tokens that the travel holds then. Forward only. The bits of x + Record(norm(x)).
  absl::StatusOr<Var> RecordTravelling(Recorder& r, Var x, const NormLayer& norm) const;
  const Options& options() const { return options_; }

 private:
  // The experts of this rank, those with rows in the plan announced to their reader.
  ExpertMlps LocalExperts(Recorder& r, const DispatchPlan& plan) const;
  absl::StatusOr<Var> RecordInPieces(Recorder& r, Var x, Var weights, const DispatchPlan& plan) const;
  Var RecordShared(Recorder& r, Var x) const;
  absl::Status RecordLosses(Recorder& r, const Routing& routing, int64_t sequences) const;

  Options options_;
  LinearLayer router_;
  MlpLayer shared_;
  LinearLayer shared_gate_;
  std::vector<BlockId> up_, up_bias_, down_, down_bias_;  // by logical expert; biases empty if there are none
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODULES_MIXTURE_H_
