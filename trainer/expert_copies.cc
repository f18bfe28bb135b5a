#include "trainer/expert_copies.h"

#include <algorithm>
#include <cstring>

#include "base/trace.h"
#include "comm/sums.h"

namespace conclave {
namespace {

constexpr int64_t kLeastParcels = 64;  // bytes of a buffer that would be empty

}  // namespace

ExpertCopies::ExpertCopies(const Mesh* mesh, const ParameterSet* parameters, const ExpertPlacement* placement, DType dtype)
    : mesh_(mesh),
      parameters_(parameters),
      placement_(placement),
      layout_(PlanCopies(parameters, mesh->shape(), mesh->rank(), *placement)),
      values_(&layout_, dtype),
      copied_(parameters->size()) {
  const int me = mesh->expert_coordinate(), axis = placement->axis();
  for (int i = 0; i < parameters->size(); ++i) {
    const BlockSpec& spec = (*parameters)[{i}];
    if (!spec.of_mixture()) continue;
    const int owner = placement->coordinate(spec.moe_layer, spec.expert);
    for (const int host : placement->copies(spec.moe_layer, spec.expert)) {
      const Parcel parcel{.peer = owner == me ? host : owner, .block = {i}, .bytes = spec.shape.elements() * SizeOf(dtype)};
      if (owner == me) owned_.push_back(parcel);
      if (host == me) borrowed_.push_back(parcel);
      if (owner == me) copied_[i] = 1;
    }
  }
  std::ranges::stable_sort(owned_, {}, &Parcel::peer);
  std::ranges::stable_sort(borrowed_, {}, &Parcel::peer);
  sizes_.resize(4 * static_cast<size_t>(axis));
  parts_ = PartTable::Over(sizes_);
}

void ExpertCopies::Reserve(int lanes) {
  if (lanes <= lanes_) return;
  lanes_ = lanes;
  int64_t out = 0, in = 0;
  for (const Parcel& parcel : owned_) out += parcel.bytes;
  for (const Parcel& parcel : borrowed_) in += parcel.bytes;
  const int64_t most = std::max({out, in, kLeastParcels}) * lanes;  // either may be the one that sends
  send_ = Buffer(most);
  receive_ = Buffer(most);
}

absl::Status ExpertCopies::Exchange(const char* label) {
  return mesh_->dispatch().AllToAllV(
      parts_.Exchange(label, Tensor(send_.data(), {parts_.sent()}, DType::kU8), Tensor(receive_.data(), {parts_.received()}, DType::kU8)));
}

absl::Status ExpertCopies::SendWeights(const FlatVector& point) {
  const TraceSpan span("expert copies");
  Reserve(1);
  std::ranges::fill(sizes_, 0);
  int64_t at = 0;
  for (const Parcel& parcel : owned_) {
    std::memcpy(send_.data() + at, point.block(parcel.block).raw(), static_cast<size_t>(parcel.bytes));
    parts_.send_bytes[parcel.peer] += parcel.bytes;
    at += parcel.bytes;
  }
  for (const Parcel& parcel : borrowed_) parts_.recv_bytes[parcel.peer] += parcel.bytes;
  RETURN_IF_ERROR(Exchange("expert copies"));
  at = 0;
  for (const Parcel& parcel : borrowed_) {
    std::memcpy(values_.block(parcel.block).raw(), receive_.data() + at, static_cast<size_t>(parcel.bytes));
    at += parcel.bytes;
  }
  return absl::OkStatus();
}

template <typename Visit>
void ExpertCopies::ForLanes(const Parcel& parcel, int host, std::span<const int64_t> leaves, Visit&& visit) const {
  if (leaves.empty()) return visit(0);
  const BlockSpec& spec = (*parameters_)[parcel.block];
  for (int lane = 0; lane < placement_->axis(); ++lane) {
    if (leaves[lane] >= 0 && placement_->PlaceOf(spec.moe_layer, spec.expert, lane, leaves[lane]).coordinate == host) visit(lane);
  }
}

absl::Status ExpertCopies::ReturnGradients(LeafGradients* gradients, std::span<const int64_t> leaves) {
  const TraceSpan span("gradients of expert copies");
  Reserve(leaves.empty() ? 1 : placement_->axis());
  std::ranges::fill(sizes_, 0);
  int64_t at = 0;
  for (const Parcel& parcel : borrowed_) {
    ForLanes(parcel, mesh_->expert_coordinate(), leaves, [&](int lane) {
      std::memcpy(send_.data() + at, gradients->Running(parcel.block, lane).raw(), static_cast<size_t>(parcel.bytes));
      parts_.send_bytes[parcel.peer] += parcel.bytes;
      at += parcel.bytes;
    });
  }
  for (const Parcel& parcel : owned_) {
    ForLanes(parcel, parcel.peer, leaves, [&](int) { parts_.recv_bytes[parcel.peer] += parcel.bytes; });
  }
  RETURN_IF_ERROR(Exchange("gradients of expert copies"));
  at = 0;
  for (const Parcel& parcel : owned_) {
    ForLanes(parcel, parcel.peer, leaves, [&](int lane) {
      const Tensor mine = gradients->Running(parcel.block, lane);
      if (!leaves.empty()) {  // no row of that leaf came here
        std::memcpy(mine.raw(), receive_.data() + at, static_cast<size_t>(parcel.bytes));
      } else {
        AddInto(mine.dtype(), receive_.data() + at, mine.raw(), mine.elements());
      }
      at += parcel.bytes;
    });
  }
  return absl::OkStatus();
}

}  // namespace conclave
