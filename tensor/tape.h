// Tape: reverse-mode differentiation, recorded by the caller's ops. Recording order is the topological order. First derivatives only.
#ifndef CONCLAVE_TENSOR_TAPE_H_
#define CONCLAVE_TENSOR_TAPE_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

#include "base/status.h"
#include "tensor/arena.h"
#include "tensor/free_spans.h"
#include "tensor/ids.h"
#include "tensor/precision.h"
#include "tensor/tensor.h"

namespace conclave {

// A value on a tape. Only meaningful with the tape that made it; -1 is "none" (an absent bias).
struct Var {
  int32_t id = -1;
  bool defined() const { return id >= 0; }
};

// Where the gradient of a parameter goes: `lanes` tensors of the parameter's shape, `stride_bytes` apart. Lane l collects what came from
// the l-th source rank of an expert group; ordinary parameters have one lane. Undefined `first`: no gradient is wanted (frozen).
struct GradientSlot {
  Tensor first;
  int lanes = 1;
  int64_t stride_bytes = 0;
  // By lane: 0 while the lane's memory is uninitialised; whoever writes it first sets 1. Null: every lane holds numbers to add to.
  uint8_t* written = nullptr;
};

struct Seed {
  Var var;            // scalar
  double weight = 1;  // d objective / d var
};

// Owned by the caller; the arena must outlive it. Reset between evaluations. Ops are free functions (tensor/ops) that compute a value,
// Record it with its inputs and, if a gradient is wanted, add one backward closure, which ACCUMULATES into the gradients of the inputs. Not
// thread-safe.
class Tape {
 public:
  // segments: memory of the segment that is being recorded; null: Segment records as if it were not there.
  explicit Tape(Arena* arena, bool gradients = true, Arena* segments = nullptr)
      : arena_(arena), main_(arena), segments_(segments), gradients_(gradients) {}

  Arena& arena() { return *arena_; }
  // Something that goes on beside the ops, messages on their way: it may move on between two of them, and within long ones.
  class Companion {
   public:
    virtual void Progress() = 0;

   protected:
    ~Companion() = default;
  };
  void Accompany(Companion* companion) { companion_ = companion; }  // null: nothing goes on
  Companion* companion() const { return companion_; }
  void Progress() {
    if (companion_ != nullptr) companion_->Progress();
  }
  // Whether what is recorded now will be walked back.
  bool differentiates() const { return gradients_ && !first_pass_; }
  // The precision of the products of ops (Linear, GroupedLinear, GroupedMlp), forward and backward, unless an op is told otherwise.
  ProductPrecision products() const { return products_; }
  void UseProducts(ProductPrecision precision) { products_ = precision; }
  void Reset();  // forgets all nodes, keeps capacity; does not reset the arena
  // The same, and what is recorded from now on is in another arena, with gradients or without.
  void Restart(Arena* arena, bool gradients);

  Var Constant(const Tensor& value);
  Var Parameter(BlockId block, const Tensor& value, const GradientSlot& gradient);
  // For tapes within an op. A value whose gradient is read after Backward, with `gradient`; and a parameter of another tape, with its slot.
  Var Input(const Tensor& value);
  Var Borrow(const Tape& other, Var parameter);

  // A new value computed from `inputs`. It wants a gradient if any input does.
  Var Record(const Tensor& value, std::initializer_list<Var> inputs) { return Record(value, std::span(inputs.begin(), inputs.size())); }
  Var Record(const Tensor& value, std::span<const Var> inputs);
  // The same memory seen as another shape; its gradient is the parent's memory too. Offset in elements.
  Var View(Var parent, int64_t offset, const Shape& shape);

  // Adds the backward step of the node recorded last. `step` is called as step(tape) in reverse order of recording, returns void or
  // absl::Status, captures Vars and plain values only (it is stored in the arena and never destroyed). It is skipped when nothing flowed
  // into `output`, unless it is COLLECTIVE: such a step runs on every rank or on none.
  enum class StepKind { kLocal, kCollective };
  template <typename F>
  void OnBackward(Var output, F step, StepKind kind = StepKind::kLocal);

  const Tensor& value(Var v) const { return nodes_[v.id].value; }
  bool wants_gradient(Var v) const { return v.defined() && nodes_[v.id].wants_gradient; }
  bool has_gradient(Var v) const;    // something was accumulated (backward of an unused output is skipped)
  Tensor gradient(Var v);            // zeroed at first use; of a parameter: lane 0 of its slot
  Tensor gradient(Var v, int lane);  // of a parameter
  // For steps that can overwrite: where to put v's gradient. accumulate false: nothing was there, the memory is uninitialised and the
  // caller must write every element; true: add to it.
  struct GradientTarget {
    Tensor tensor;
    bool accumulate = true;
  };
  GradientTarget gradient_target(Var v);
  GradientTarget gradient_target(Var v, int lane);  // of a parameter
  // Hands y's gradient memory over to x, whose gradient was empty so far: for a backward step that turns dy into dx in place, after which
  // nobody may read y's. Same shape and dtype. False: nothing was done, use gradient_target(x).
  bool TakeGradient(Var y, Var x);
  // Lets the steps before read x's gradient as y's, whose gradient was empty so far and to which nothing more will flow: for a y whose step
  // is walked before anything is added to x's. False: nothing was done.
  bool LendGradient(Var x, Var y);
  // Takes `memory` of the arena that holds nodes recorded now, not rewound before backward ends, as x's gradient, which was empty so far:
  // for an op that formed it when it was recorded. False: nothing was done, use gradient_target(x).
  bool PutGradient(Var x, const Tensor& memory);
  int lanes(Var v) const { return nodes_[v.id].lanes; }

  // Walks the tape backwards from the seeds. What flowed into a node is gone when its step is done, but for parameters. `on_final(block)`
  // is called once for every recorded parameter, when no later step can add to it; parameters that no op used are reported at the end.
  // Errors: those of the steps (collectives). Callable once per recording.
  using OnFinal = std::function<absl::Status(BlockId)>;
  absl::Status Backward(std::span<const Seed> seeds, const OnFinal& on_final);
  // For a backward step that is done with one parameter long before another: it adds no more to this one. Reported as final at once unless
  // steps to come can add to it, and then when they are done. Errors: those of on_final.
  absl::Status Finish(Var parameter);

  int64_t nodes() const { return static_cast<int64_t>(nodes_.size()); }

  // A part of a recording of which only the result is kept: backward records it once more, so that it takes no memory in between. Its
  // gradients have the same bits as if everything had been kept. record(pass) records it with the tape's ops and returns its result as a
  // StatusOr<Var>; it must record the same both times, uses parameters recorded before, and may call collectives (every rank runs it twice
  // then). Captures plain values only. Segments do not nest.
  enum class Pass { kWhole, kFirst, kAgain };  // kWhole: nothing is recorded again
  // Whose value wants no gradient of its own but by the segment: seeds of terms inside of it, known when it is recorded again.
  using InnerSeeds = std::span<const Seed> (*)(void*);
  struct SegmentOwner {
    InnerSeeds seeds = nullptr;  // null: none
    void* object = nullptr;
  };
  bool keeps_segments() const { return segments_ == nullptr; }
  template <typename F>
  absl::StatusOr<Var> Segment(Var input, const SegmentOwner& owner, F record);

 private:
  struct Node {
    Tensor value;
    Tensor gradient;
    int64_t gradient_stride = 0;
    uint8_t* written = nullptr;
    int lanes = 1;
    int32_t view_of = -1;
    int64_t view_offset = 0;
    int32_t block = -1;       // parameter: its block
    int32_t first_user = -1;  // parameter: the first node that used it
    int32_t next_final = -1;  // chain of parameters that become final with the same node
    int32_t finals = -1;      // head of that chain
    bool wants_gradient = false;
    bool reported = false;       // parameter: on_final was called
    bool owns_gradient = false;  // its memory is given back after the node's backward step
    bool lent_gradient = false;  // it is another node's: to be read only
    bool collective = false;
    bool input = false;  // its gradient is not given back
    absl::Status (*run)(void*, Tape&) = nullptr;
    void* closure = nullptr;
  };
  void NoteUse(Var input, int32_t user);
  Tensor EnsureGradient(int32_t id);
  void NewGradient(int32_t id);
  void GiveBackGradient(int32_t id);
  // Where the gradient of a node lives: those of nodes outside of the open segment outlive it.
  Arena& ArenaOf(int32_t id) { return id < segment_begin_ ? *main_ : *arena_; }
  FreeSpans& FreeOf(int32_t id) { return segment_begin_ == 0 || id < segment_begin_ ? free_ : segment_free_; }
  absl::Status WalkBack(int32_t begin, const OnFinal* on_final);
  absl::Status WalkNodesBack(int32_t begin);
  void AddSeeds(std::span<const Seed> seeds);
  void OpenSegment(bool gradients);
  void CloseSegment();
  Var KeepResult(Var input, Var output);
  absl::Status WalkSegment(Var output, Var again, const SegmentOwner& owner);
  Tensor LaneOf(const Node& node, int lane) const;

  Arena* arena_;  // in use: main_, or segments_ while a segment is open
  Arena* main_;
  Arena* segments_;
  bool gradients_;
  Companion* companion_ = nullptr;
  ProductPrecision products_ = ProductPrecision::kFull;
  std::vector<Node> nodes_;
  // Of main_ and of segments_: gradients that nobody reads any more, whose memory others take while it is in the cache.
  FreeSpans free_;
  FreeSpans segment_free_;
  // While walking back: the node whose step runs, and whom Finish tells; null in a segment, whose parameters become final with it.
  int32_t walking_ = -1;
  const OnFinal* on_final_ = nullptr;
  int32_t segment_begin_ = 0;        // first node of the open segment; 0: none is open
  bool first_pass_ = false;          // of the open segment: nothing is noted for backward
  std::vector<Var> segment_inputs_;  // what the open segment used of the nodes before it
};

template <typename F>
absl::StatusOr<Var> Tape::Segment(Var input, const SegmentOwner& owner, F record) {
  if (segments_ == nullptr) return record(Pass::kWhole);
  OpenSegment(/*gradients=*/false);
  ASSIGN_OR_RETURN(const Var output, record(Pass::kFirst));
  const Var kept = KeepResult(input, output);
  OnBackward(
      kept,
      [kept, owner, record](Tape& tape) mutable -> absl::Status {
        tape.OpenSegment(/*gradients=*/true);
        ASSIGN_OR_RETURN(const Var again, record(Pass::kAgain));
        return tape.WalkSegment(kept, again, owner);
      },
      StepKind::kCollective);
  return kept;
}

template <typename F>
void Tape::OnBackward(Var output, F step, StepKind kind) {
  static_assert(std::is_trivially_destructible_v<F>, "captures must be plain values");
  Node& node = nodes_[output.id];
  if (!node.wants_gradient) return;
  node.collective = kind == StepKind::kCollective;
  node.closure = new (arena_->Allocate(sizeof(F))) F(std::move(step));
  node.run = [](void* closure, Tape& tape) -> absl::Status {
    F& f = *static_cast<F*>(closure);
    if constexpr (std::is_void_v<std::invoke_result_t<F&, Tape&>>) {
      f(tape);
      return absl::OkStatus();
    } else {
      return f(tape);
    }
  };
}

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_TAPE_H_
