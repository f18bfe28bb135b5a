// Expert dispatch: moves tokens to the ranks that hold their experts, and back.
#ifndef CONCLAVE_PARALLEL_EXPERT_DISPATCH_H_
#define CONCLAVE_PARALLEL_EXPERT_DISPATCH_H_

#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "parallel/expert_placement.h"
#include "parallel/mesh.h"
#include "parallel/routing_recorder.h"
#include "parallel/row_moves.h"
#include "parallel/token_route.h"
#include "tensor/ops/ops.h"
#include "tensor/tape.h"

namespace conclave {

// What a dispatch is built of beside mesh and placement: its route and the formats of its four flows.
struct DispatchSetup {
  std::unique_ptr<DispatchGrid> grid;  // null where one level is enough
  DispatchConfig::Route route = DispatchConfig::FLAT;
  int pieces = 0;           // that rows travel in, beside the experts' work; 0: experts wait for all rows
  int64_t most_rows = 0;    // that a rank takes at a time; 0: any number
  bool bounded = false;     // more than most_rows go in pieces of at most so many; else they are an error
  int most_pieces = 0;      // where rows are bounded: no leaf of Request::tokens needs more
  bool pre_reduce = false;  // each rank (node) returns one partial sum a token instead of a row for each slot
  bool fold = false;        // results of a token's first slots come home as their sum where one rank (node) has them; the same bits
  bool weighs_there() const { return pre_reduce || fold; }  // outputs are weighted by the rank that has them
  // Null: rows as they are.
  std::unique_ptr<RowCodec> dispatch_forward, combine_forward, combine_backward, dispatch_backward;
  bool lossy() const { return dispatch_forward || combine_forward || combine_backward || dispatch_backward; }

  struct Request {
    DispatchConfig config;
    bool pre_reduce = false;
    int64_t width = 0;  // of a token
    DType dtype = DType::kF32;
    // What AUTO and most_pieces reckon with: one leaf's tokens, and the routing of a layer.
    int64_t tokens = 0;
    int experts = 1, top_k = 1;
  };
  // Collective on mesh.dispatch(). AUTO measures the links and takes the cheapest route; rank 0 logs why. Errors: DispatchGrid's,
  // RowCodec's.
  static absl::StatusOr<std::unique_ptr<DispatchSetup>> Create(const Mesh& mesh, const Request& request);
};

struct PieceRun;    // a layer's tokens on their way in pieces; lives in the arena of the recording
struct PieceState;  // what is under way

// The experts of a layer on this rank, in the order of their slots, as GroupedMlp takes them.
struct ExpertMlps {
  MlpWeights weights;
  Activation activation = Activation::kGelu;
};

// Serves one rank's MoE layers; not to be moved once something is recorded. A rank or an expert without tokens is legal, and every rank
// enters every collective whatever its counts. Placement and route are relabellings: no bit of a result depends on them, unless pre_reduce
// is set and tokens have more than two experts; then |difference| <= 2 g sum_s |w_s out_s|, g = (k - 1) u / (1 - (k - 1) u), u the unit
// roundoff.
class ExpertDispatch {
 public:
  // All must outlive it. Without a setup: the flat route, nothing rounded. An axis of one rank moves nothing.
  ExpertDispatch(const Mesh* mesh, const ExpertPlacement* placement, const DispatchSetup* setup = nullptr);
  ~ExpertDispatch();

  // Tells `recorder` of every routing; it must outlive the dispatch. Null: nobody.
  void Observe(RoutingRecorder* recorder) { recorder_ = recorder; }

  // What follows is of one leaf: decides which copy of an expert its tokens go to (ExpertPlacement::PlaceOf). -1, as at the start: they go
  // to the owners.
  void BeginLeaf(int64_t turn);
  // What follows is of held-out samples: all goes to the owners, and most_rows ends nothing.
  void BeginHeldOut() { BeginLeaf(-1), limited_ = false; }

  // Rows that this rank was sent of a leaf, no held-out one: the most of any, in all its layers together and in one. Where they are bounded
  // no more count than it takes at a time.
  struct LeafRows {
    int64_t layers = 0, layer = 0;
  };
  LeafRows most_rows() const;
  void ForgetRows();
  // What every layer's exchanges of leaves, no held-out ones, moved from this rank since whoever asks last set it to zero: [layers].
  std::vector<LayerTraffic>& traffic() const;

  const ExpertPlacement& placement() const { return *placement_; }
  bool cuts() const { return setup_->pieces > 0 || setup_->bounded; }  // plans may have pieces
  const Mesh& mesh() const { return *mesh_; }
  int lanes() const { return placement_->axis(); }
  int coordinate() const { return mesh_->expert_coordinate(); }

  // ids: i32 [n, k], of tokens of `width` elements, as in Dispatch. by_lane: gradients of experts are kept apart by source rank. Says in
  // plan->pieces how Send (0) or Depart and Work are to go on. Collective likewise; where rows are bounded, one all-reduce of 8 bytes more.
  struct Question {
    Tensor ids;
    int layer = 0;
    int64_t width = 0;
    bool by_lane = false;
  };
  absl::Status Plan(Arena& arena, const Question& question, DispatchPlan* plan) const;
  // The rows of a plan, [m, h], as Dispatch returns them.
  absl::StatusOr<Var> Send(Tape& tape, Var x, const DispatchPlan& plan) const;

  // The whole way of a plan's tokens in pieces: to their experts, through them and home. Depart posts what leaves this rank; what is
  // recorded before Work is done while rows travel, and its backward while gradients do. Work returns y as Combine does, after experts that
  // see rows in pieces: while they work on one the next ones come and results of those before go home. Backward likewise. Bits of values
  // and gradients are those of Dispatch, GroupedMlp and Combine. With plan.bounded pieces come one at a time, none is kept, and backward
  // sends their rows and computes their hidden values once more. Collective as Dispatch and Combine are. Memory that is held while rows
  // travel: rows that leave and arrive once more, in an arena of its own (see travel_bytes).
  absl::StatusOr<PieceRun*> Depart(Tape& tape, Var x, Var weights, const DispatchPlan& plan) const;
  absl::StatusOr<Var> Work(Tape& tape, PieceRun* run, const ExpertMlps& experts) const;
  // Of that arena: largest use since it was reserved; what is reserved; reserves.
  int64_t travel_bytes() const;
  int64_t travel_reserved_bytes() const;
  void ReserveTravel(int64_t bytes);

  // x: [n, h], ids: i32 [n, k] logical experts of `layer`, -1: the slot is empty; returns rows [m, h] in expert order and fills `plan`.
  // Backward: sum of row gradients, in slot order or, with pre_reduce, by rank. Collective on axis "expert", with most_rows on all ranks.
  // Cost: the route's plan, and its rows; backward about n k h elements, or the route's rows with pre_reduce. Errors: ResourceExhausted,
  // on every rank of the job, where a rank would receive more than most_rows of a leaf; no memory was taken for rows then.
  absl::StatusOr<Var> Dispatch(Tape& tape, Var x, const Tensor& ids, int layer, DispatchPlan* plan) const;

  // rows: [m, h] expert outputs in expert order, weights: [n, k]; returns [n, h], y[t] = sum over slots s = 0.. k-1 in that order of
  // weights[t, s] * row(t, s), products rounded before they are added; empty slots count as 0. With pre_reduce: summed by rank first, in
  // expert order. Backward: rows get weights * dy, weights get <dy, row>. Collective likewise.
  absl::StatusOr<Var> Combine(Tape& tape, Var rows, Var weights, const DispatchPlan& plan) const;

  // Sums counts over all ranks of the job (for balance losses of scope GLOBAL). counts: i64. Collective on all ranks.
  absl::Status SumOverTokens(const Tensor& counts) const;

 private:
  absl::Status CheckRoom(int layer, int64_t received) const;
  absl::Status AgreeOnPieces(DispatchPlan* plan) const;
  absl::Status WorkOnPieces(Tape& tape, PieceRun* run, const Tensor& y) const;
  absl::Status WorkBackward(Tape& tape, PieceRun* run) const;
  absl::Status HomeBackward(Tape& tape, PieceRun* run) const;
  // Weighted outputs [m, h] -> y [n, h], as sums where they are; products [m, 1] are added to dw [n, k].
  absl::Status ReturnWeighted(Arena& arena, const DispatchPlan& plan, const Tensor& scaled, const Tensor& y) const;
  absl::Status ReturnProducts(Arena& arena, const DispatchPlan& plan, const Tensor& products, const Tensor& dw) const;
  absl::Status WeighThere(Arena& arena, const DispatchPlan& plan, const Tensor& weights, Tensor* there) const;
  bool alone() const { return placement_->axis() == 1 && !setup_->lossy(); }
  // dx = or += sum of the copies' gradients g [m, h].
  absl::Status DispatchBackward(Arena& arena, const Tensor& g, const Tape::GradientTarget& dx, const DispatchPlan& plan) const;
  // `kept`: expert outputs in the order of plan.position, or with pre_reduce in expert order, and the weights of their copies, [m, 1]. own:
  // those of this rank's experts in expert order, which are not among them then.
  struct Kept {
    Tensor rows, weights, own;
  };
  absl::Status CombineForward(Arena& arena, const Tensor& rows, const Tensor& weights, const DispatchPlan& plan, const Tensor& y,
                              Kept* kept) const;
  struct CombineInputs {
    Tensor dy, weights;  // [n, h], [n, k]
    Kept kept;
  };
  absl::Status CombineBackward(Arena& arena, const CombineInputs& in, const WeightedSumGradients& gradients,
                               const DispatchPlan& plan) const;
  // The same where the token's gradient travels and is weighted by the expert's rank.
  absl::Status CombineBackwardThere(Arena& arena, const CombineInputs& in, const WeightedSumGradients& gradients,
                                    const DispatchPlan& plan) const;

  const Mesh* mesh_;
  const ExpertPlacement* placement_;
  std::shared_ptr<const DispatchSetup> plain_;  // where none was given
  const DispatchSetup* setup_;
  TokenRoute route_;
  std::unique_ptr<PieceState> state_;
  RoutingRecorder* recorder_ = nullptr;
  int64_t turn_ = -1;
  bool limited_ = true;  // most_rows may end the run
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_EXPERT_DISPATCH_H_
