#include "tensor/tape.h"

#include <utility>

namespace conclave {

void Tape::Reset() {
  if (segment_begin_ > 0) CloseSegment();  // an error left it open
  nodes_.clear();
  free_.Clear();
}

void Tape::Restart(Arena* arena, bool gradients) {
  Reset();
  CHECK(segments_ == nullptr);
  arena_ = main_ = arena;
  gradients_ = gradients;
}

Var Tape::Constant(const Tensor& value) {
  nodes_.push_back({.value = value});
  return {static_cast<int32_t>(nodes_.size()) - 1};
}

Var Tape::Parameter(BlockId block, const Tensor& value, const GradientSlot& gradient) {
  nodes_.push_back({.value = value,
                    .gradient = gradient.first,
                    .gradient_stride = gradient.stride_bytes,
                    .written = gradient.written,
                    .lanes = gradient.lanes,
                    .block = block.value,
                    .wants_gradient = gradients_ && gradient.first.defined()});
  return {static_cast<int32_t>(nodes_.size()) - 1};
}

Var Tape::Input(const Tensor& value) {
  nodes_.push_back({.value = value, .wants_gradient = gradients_, .input = true});
  return {static_cast<int32_t>(nodes_.size()) - 1};
}

Var Tape::Borrow(const Tape& other, Var parameter) {
  const Node& node = other.nodes_[parameter.id];
  if (!gradients_ || !node.wants_gradient) return Constant(node.value);
  CHECK_GE(node.block, 0) << "only parameters are borrowed";
  return Parameter({node.block}, node.value, {node.gradient, node.lanes, node.gradient_stride, node.written});
}

Var Tape::Record(const Tensor& value, std::span<const Var> inputs) {
  Progress();
  const int32_t id = static_cast<int32_t>(nodes_.size());
  bool wants = false;
  for (const Var input : inputs) wants = wants || wants_gradient(input);
  nodes_.push_back({.value = value, .wants_gradient = wants && !first_pass_});
  for (const Var input : inputs) NoteUse(input, id);
  return {id};
}

Var Tape::View(Var parent, int64_t offset, const Shape& shape) {
  const Tensor& base = value(parent);
  CHECK(offset >= 0 && offset + shape.elements() <= base.elements())
      << offset << ' ' << shape.ToString() << " of " << base.shape().ToString();
  std::byte* data = static_cast<std::byte*>(base.raw()) + offset * SizeOf(base.dtype());
  const Var view = Record(Tensor(data, shape, base.dtype(), base.device()), {parent});
  nodes_[view.id].view_of = parent.id;
  nodes_[view.id].view_offset = offset;
  return view;
}

void Tape::NoteUse(Var input, int32_t user) {
  if (!input.defined()) return;
  Node& node = nodes_[input.id];
  if (first_pass_) {
    if (input.id < segment_begin_ && node.block >= 0) segment_inputs_.push_back(input);
    return;
  }
  if (node.block < 0 || node.first_user >= 0) return;
  node.first_user = user;
  node.next_final = nodes_[user].finals;
  nodes_[user].finals = input.id;
}

bool Tape::has_gradient(Var v) const {
  const Node& node = nodes_[v.id];
  if (node.view_of >= 0) return has_gradient({node.view_of});
  return node.gradient.defined();
}

Tensor Tape::EnsureGradient(int32_t id) {
  Node& node = nodes_[id];
  CHECK(node.wants_gradient) << "node " << id;
  if (node.view_of >= 0) {
    const Tensor parent = EnsureGradient(node.view_of);
    return Tensor(static_cast<std::byte*>(parent.raw()) + node.view_offset * SizeOf(parent.dtype()), node.value.shape(), parent.dtype());
  }
  if (!node.gradient.defined()) {
    NewGradient(id);
    node.gradient.Zero();
  }
  if (node.written != nullptr && node.written[0] == 0) {
    node.gradient.Zero();
    node.written[0] = 1;
  }
  return node.gradient;
}

void Tape::NewGradient(int32_t id) {
  Node& node = nodes_[id];
  void* const memory = FreeOf(id).Take(node.value.bytes());
  node.gradient =
      memory != nullptr ? Tensor(memory, node.value.shape(), node.value.dtype()) : ArenaOf(id).New(node.value.shape(), node.value.dtype());
  node.owns_gradient = true;
}

void Tape::GiveBackGradient(int32_t id) {
  Node& node = nodes_[id];
  if (node.input) return;
  if (node.owns_gradient) FreeOf(id).Give(node.gradient.raw(), node.gradient.bytes());
  node.owns_gradient = node.lent_gradient = false;
  if (node.block < 0) node.gradient = {};
}

Tensor Tape::gradient(Var v) { return EnsureGradient(v.id); }

Tape::GradientTarget Tape::gradient_target(Var v) {
  Node& node = nodes_[v.id];
  if (node.written != nullptr) return gradient_target(v, 0);
  if (node.view_of >= 0 || node.gradient.defined() || !node.wants_gradient) return {EnsureGradient(v.id), true};
  NewGradient(v.id);
  return {node.gradient, false};
}

Tensor Tape::LaneOf(const Node& node, int lane) const {
  CHECK(lane >= 0 && lane < node.lanes) << lane << " of " << node.lanes;
  const Tensor& first = node.gradient;
  return Tensor(static_cast<std::byte*>(first.raw()) + lane * node.gradient_stride, first.shape(), first.dtype(), first.device());
}

Tape::GradientTarget Tape::gradient_target(Var v, int lane) {
  Node& node = nodes_[v.id];
  CHECK(node.wants_gradient && node.block >= 0) << "node " << v.id;
  const bool accumulate = node.written == nullptr || node.written[lane] != 0;
  if (node.written != nullptr) node.written[lane] = 1;
  return {LaneOf(node, lane), accumulate};
}

Tensor Tape::gradient(Var v, int lane) {
  const GradientTarget target = gradient_target(v, lane);
  if (!target.accumulate) target.tensor.Zero();
  return target.tensor;
}

bool Tape::TakeGradient(Var y, Var x) {
  Node& from = nodes_[y.id];
  Node& to = nodes_[x.id];
  if (!to.wants_gradient || to.gradient.defined() || to.view_of >= 0 || from.view_of >= 0 || from.block >= 0) return false;
  if (from.lent_gradient) return false;
  if (&ArenaOf(x.id) != &ArenaOf(y.id)) return false;  // it would not live as long as x
  CHECK(from.gradient.defined() && from.value.elements() == to.value.elements() && from.value.dtype() == to.value.dtype());
  to.gradient = from.gradient.Reshape(to.value.shape());
  std::swap(from.owns_gradient, to.owns_gradient);
  return true;
}

bool Tape::LendGradient(Var x, Var y) {
  const Node& from = nodes_[x.id];
  Node& to = nodes_[y.id];
  if (!to.wants_gradient || to.gradient.defined() || to.view_of >= 0 || to.block >= 0 || &ArenaOf(x.id) != &ArenaOf(y.id)) return false;
  CHECK(from.gradient.defined() && from.value.elements() == to.value.elements() && from.value.dtype() == to.value.dtype());
  to.gradient = from.gradient.Reshape(to.value.shape());
  to.lent_gradient = true;
  return true;
}

bool Tape::PutGradient(Var x, const Tensor& memory) {
  Node& node = nodes_[x.id];
  if (!node.wants_gradient || node.gradient.defined() || node.view_of >= 0 || &ArenaOf(x.id) != arena_) return false;
  CHECK(memory.elements() == node.value.elements() && memory.dtype() == node.value.dtype());
  node.gradient = memory.Reshape(node.value.shape());
  node.owns_gradient = true;
  return true;
}

void Tape::AddSeeds(std::span<const Seed> seeds) {
  for (const Seed& seed : seeds) {
    if (!wants_gradient(seed.var)) continue;
    CHECK_EQ(value(seed.var).elements(), 1);
    const Tensor g = gradient(seed.var);
    DispatchFloat(g.dtype(), [&](auto t) { *g.data<decltype(t)>() += static_cast<decltype(t)>(seed.weight); });
  }
}

absl::Status Tape::WalkBack(int32_t begin, const OnFinal* on_final) {
  const OnFinal* const outer = std::exchange(on_final_, on_final);
  const absl::Status walked = WalkNodesBack(begin);
  on_final_ = outer;
  return walked;
}

absl::Status Tape::WalkNodesBack(int32_t begin) {
  for (int32_t id = static_cast<int32_t>(nodes_.size()) - 1; id >= begin; --id) {
    Progress();
    walking_ = id;
    const Node& node = nodes_[id];
    if (node.run != nullptr && (node.collective || has_gradient({id}))) RETURN_IF_ERROR(node.run(node.closure, *this));
    GiveBackGradient(id);
    walking_ = id;  // a segment walks its own
    for (int32_t p = nodes_[id].finals; p >= 0; p = nodes_[p].next_final) RETURN_IF_ERROR(Finish({p}));
  }
  return absl::OkStatus();
}

absl::Status Tape::Finish(Var parameter) {
  if (!parameter.defined() || on_final_ == nullptr) return absl::OkStatus();
  Node& node = nodes_[parameter.id];
  if (node.first_user != walking_ || node.reported || !node.wants_gradient) return absl::OkStatus();
  node.reported = true;
  return (*on_final_)({node.block});
}

absl::Status Tape::Backward(std::span<const Seed> seeds, const OnFinal& on_final) {
  AddSeeds(seeds);
  RETURN_IF_ERROR(WalkBack(0, &on_final));
  for (const Node& node : nodes_) {
    if (node.block >= 0 && node.first_user < 0 && node.wants_gradient) RETURN_IF_ERROR(on_final({node.block}));
  }
  return absl::OkStatus();
}

void Tape::OpenSegment(bool gradients) {
  CHECK(segment_begin_ == 0 && !nodes_.empty()) << "segments do not nest";
  segment_begin_ = static_cast<int32_t>(nodes_.size());
  first_pass_ = !gradients;
  segment_inputs_.clear();
  arena_ = segments_;
}

void Tape::CloseSegment() {
  nodes_.resize(segment_begin_);
  segment_begin_ = 0;
  first_pass_ = false;
  segments_->Reset();
  segment_free_.Clear();
  arena_ = main_;
}

Var Tape::KeepResult(Var input, Var output) {
  CHECK_GE(output.id, segment_begin_) << "the result of a segment comes from inside";
  const Tensor kept = main_->New(value(output).shape(), value(output).dtype());
  kept.CopyFrom(value(output));
  CloseSegment();
  segment_inputs_.push_back(input);
  return Record(kept, segment_inputs_);
}

absl::Status Tape::WalkSegment(Var output, Var again, const SegmentOwner& owner) {
  if (has_gradient(output)) nodes_[again.id].gradient = nodes_[output.id].gradient;
  if (owner.seeds != nullptr) AddSeeds(owner.seeds(owner.object));
  RETURN_IF_ERROR(WalkBack(segment_begin_, nullptr));
  CloseSegment();
  return absl::OkStatus();
}

}  // namespace conclave
