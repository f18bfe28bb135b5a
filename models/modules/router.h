// Routers: which experts a token goes to, and with which weights.
#ifndef CONCLAVE_MODELS_MODULES_ROUTER_H_
#define CONCLAVE_MODELS_MODULES_ROUTER_H_

#include "models/recorder.h"
#include "proto/model.pb.h"
#include "tensor/ops/ops.h"

namespace conclave {

// An expert takes at most `rows` slots of a leaf.
struct CapacityOptions {
  double factor = 0;  // 0: dropless
  int64_t minimum = 1;
  CapacityConfig::Drop drop = CapacityConfig::BY_WEIGHT;
  // tokens: of the leaf, not counted once per slot.
  int64_t Rows(int64_t tokens, int top_k, int experts) const;
};

struct RouterOptions {
  int experts = 1, top_k = 1;
  MoeConfig::Router kind = MoeConfig::SOFTMAX_PRE;
  bool renormalize = true;  // SOFTMAX_PRE, SIGMOID: divide by the sum of the selected
  double scale = 1;         // of all weights
  // A token's experts come from the group_top_k groups of largest score; experts of a group are consecutive.
  int groups = 1, group_top_k = 1;
  int group_score_top = 1;  // a group's score: the sum of so many of its largest selection scores
  bool in_turn = false;     // token t of a leaf goes to experts t, t + E / k, t + 2 E / k, ... modulo E, whatever the scores are
  CapacityOptions capacity;
  MoeConfig::BalanceScope scope = MoeConfig::WORKER;
};

// One token's experts in descending selection score (equal scores: the lower expert id first), with differentiable weights. k = top_k but
// for EXPERT_CHOICE, where it is the largest number of experts that a token of the leaf has.
struct Routing {
  Tensor selected;    // i32 [n, k] logical experts, before capacity; -1: EXPERT_CHOICE, the token has no more experts
  Tensor ids;         // i32 [n, k] where rows go: selected, -1 for what an expert had no room for
  Var weights;        // [n, k]; of no meaning where ids is -1
  Var logits;         // [n, E]
  Var probabilities;  // [n, E], rows sum to 1: softmax, or sigmoids over their sum
  int64_t dropped = 0;
};

// logits: [n, E]. bias: [E], added to selection scores only, or empty. A routing log of the recorder replaces or receives `selected`.
// Non-finite logits poison the recorder (naming `layer` and the token) and route as if they were 0. Errors: FailedPrecondition from a log
// that does not fit.
absl::StatusOr<Routing> RecordRouter(Recorder& r, Var logits, const RouterOptions& options, int layer, std::span<const float> bias = {});

// Group-limited selection: the scores outside the best groups of each row become -infinity. scores: [n, E], in place.
void LimitToGroups(Arena& arena, const Tensor& scores, const RouterOptions& options);

// Every expert takes its `rows` best tokens (equal scores: the earlier token). scores: [n, E]; returns i32 [n, k], each row in descending
// score, then -1.
Tensor ChooseTokens(Arena& arena, const Tensor& scores, int64_t rows);

// Sets to -1 the slots beyond `rows` of each expert; returns how many. ids: [n, k] experts below `experts`, weights: [n, k].
struct SlotLimit {
  int64_t experts = 1, rows = 1;
  CapacityConfig::Drop drop = CapacityConfig::BY_WEIGHT;
};
int64_t DropOverflow(Arena& arena, const Tensor& ids, const Tensor& weights, const SlotLimit& limit);

// aux = E sum_i f_i P_i over the scope's tokens, f_i = count_i / (tokens k) constant in backward: 1 under uniform load. `counts`: i64 [E]
// of the whole scope where it is more than this leaf (GLOBAL, BATCH). SEQUENCE: mean over `sequences` equal sequences. Scalar.
struct BalanceArgs {
  MoeConfig::BalanceScope scope = MoeConfig::WORKER;
  int64_t sequences = 1;
  std::span<const int64_t> counts;
};
Var BalanceLoss(Tape& tape, const Routing& routing, const BalanceArgs& args);

// mean over tokens of (logsumexp of the logits)^2. Scalar sum; the caller divides by n.
Var RouterZSum(Tape& tape, Var logits);

// Adds the slots of each expert to counts [E]; -1 counts nowhere.
void CountExperts(const Tensor& ids, std::span<int64_t> counts);

// bias[i] += rate * sign(mean load - load[i]), the comparison in integers. Source: Wang et al., 2024, auxiliary-loss-free load balancing.
// PROPORTIONAL: rate * (1 - load[i] / mean load).
struct BiasStepOptions {
  double rate = 0;
  MoeConfig::BiasStep kind = MoeConfig::SIGN;
};
void UpdateRouterBias(std::span<const int64_t> load, const BiasStepOptions& step, std::span<float> bias);

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODULES_ROUTER_H_
