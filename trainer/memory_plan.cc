#include "trainer/memory_plan.h"

#include <sys/resource.h>

#include <algorithm>

#include "base/paged_memory.h"
#include "base/strings.h"

namespace conclave {
namespace {

// Rows of the larger cut of a leaf: enough for rounding to 64 bytes not to count where a sample is a few numbers.
int64_t CutRows(const Assembly& a) { return a.model->sample_shape().kind == SampleShape::Kind::kTokens ? 2 : 64; }

absl::StatusOr<int64_t> ForetellActivations(Assembly& a) {
  const int64_t rows = a.field->leaf_rows(), large = CutRows(a), small = large / 2;
  Exchange* const exchange = a.scheme->exchange();
  const FlatVector& point = a.scheme->point();
  if (rows <= large) return a.field->MeasureLeaf(point, rows, exchange);
  ASSIGN_OR_RETURN(const int64_t at_small, a.field->MeasureLeaf(point, small, exchange));
  ASSIGN_OR_RETURN(const int64_t at_large, a.field->MeasureLeaf(point, large, exchange));
  return at_small + (at_large - at_small) * (rows - small) / (large - small);
}

// Experts' states that are on disk alone.
int64_t OnDisk(const Assembly& a) { return a.expert_memory == nullptr ? 0 : a.expert_memory->bytes() - a.expert_memory->cached_bytes(); }

// Rows of one mixture layer that a leaf sends to experts.
int64_t RowsOfLeaf(const Assembly& a) {
  const MoeLmConfig& lm = a.config.model().moe_lm();
  return a.field->leaf_rows() * lm.context() * lm.moe().top_k();
}

// By how much more than at an even share a rank may have to hold: only what experts receive varies, and the rank with the most received no
// less than its share.
double MostOverShare(const Assembly& a) {
  if (a.model->experts().empty()) return 1;
  const auto all = static_cast<double>(a.mesh->shape().expert);
  const int64_t most_rows = a.dispatch_setup == nullptr ? 0 : a.dispatch_setup->most_rows;
  if (most_rows == 0) return all;
  return std::clamp(static_cast<double>(most_rows) / static_cast<double>(RowsOfLeaf(a)), 1.0, all);
}

// Where rows are bounded but come all the same, in pieces: the integers of their plans, beside the rows that MostOverShare counts.
int64_t PlansBeyondBound(const Assembly& a) {
  constexpr int64_t kBytesOfRow = 256;  // two hops: places, sources, pieces of a copy on both sides
  if (a.dispatch_setup == nullptr || !a.dispatch_setup->bounded) return 0;
  return (a.mesh->shape().expert - 1) * RowsOfLeaf(a) * static_cast<int64_t>(a.model->experts().size()) * kBytesOfRow;
}

// Tensors without the activations, in memory or on disk.
int64_t Standing(const Assembly& a) { return Buffer::OfThisThread() - a.field->reserved_bytes(); }

int64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::max(int64_t{usage.ru_maxrss} * 1024, ResidentBytes());  // the kernel notes the former now and then only
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(Assembly& a) {
  MemoryPlan plan;
  ASSIGN_OR_RETURN(plan.activations, ForetellActivations(a));
  int64_t most = plan.activations;
  RETURN_IF_ERROR(a.mesh->control().AllReduce("memory", Tensor(&most, {1}, DType::kI64), ReduceOp::kMax));
  plan.activation_bound = static_cast<int64_t>(static_cast<double>(most) * MostOverShare(a)) + PlansBeyondBound(a);
  a.field->ReserveActivations(plan.activation_bound + plan.activation_bound / 16 + (int64_t{64} << 10));
  StateDict state;
  a.scheme->Register(state);
  for (const StateEntry& entry : state.entries()) plan.scheme_state += entry.data.bytes();
  plan.parameters = a.layout->flat_elements() * SizeOf(a.dtype());
  for (const BlockId id : a.layout->local_blocks()) plan.scheme_state -= a.model->parameters()[id].shape.elements() * SizeOf(a.dtype());
  plan.gradients = a.field->gradient_bytes();
  plan.samples = a.field->sample_bytes();
  plan.on_disk = OnDisk(a);
  plan.exchange = Standing(a) - plan.parameters - plan.scheme_state - plan.gradients - plan.samples;
  return plan;
}

int64_t MeasuredMemory(const Assembly& a) { return Standing(a) - OnDisk(a) + a.field->activation_bytes(); }

std::string MemoryTable(const Assembly& a, const MemoryPlan& plan) {
  const auto line = [](const char* what, int64_t bytes) { return absl::StrFormat("  %-34s %12s\n", what, HumanBytes(bytes)); };
  std::string text = absl::StrFormat("memory of this rank (model: %s parameters, %s here)\n", HumanCount(a.model->parameters().elements()),
                                     HumanCount(a.layout->flat_elements())) +
                     line("parameters", plan.parameters) + line("state of the scheme", plan.scheme_state) +
                     line("exchange and scratch", plan.exchange) + line("gradients", plan.gradients) + line("samples", plan.samples) +
                     line("activations of a leaf", plan.activations);
  if (plan.on_disk > 0) text += line("of these, experts on disk alone", plan.on_disk);
  text += line("in all", plan.total());
  const bool limited = a.dispatch_setup != nullptr && a.dispatch_setup->most_rows > 0;
  const char* bound = !limited                    ? "activations, all tokens on one rank"
                      : a.dispatch_setup->bounded ? "activations, most_rows at a time"
                                                  : "activations, most_rows on one rank";
  if (plan.activation_bound > plan.activations) {
    text += line(bound, plan.activation_bound);
  }
  return text;
}

std::string MemoryLine(const MemoryPlan& plan, int64_t measured) {
  const double off = 100.0 * static_cast<double>(measured - plan.total()) / static_cast<double>(std::max<int64_t>(plan.total(), 1));
  return absl::StrFormat("memory: %s at the peak of a step, %+.1f %% off the plan's %s; the process holds %s, at most %s so far",
                         HumanBytes(measured), off, HumanBytes(plan.total()), HumanBytes(ResidentBytes()), HumanBytes(PeakResidentBytes()));
}

}  // namespace conclave
