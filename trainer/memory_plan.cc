#include "trainer/memory_plan.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/paged_memory.h"
#include "base/strings.h"

namespace conclave {
namespace {

// Rows of the larger cut of a leaf: enough for rounding to 64 bytes not to count where a sample is a few numbers.
int64_t CutRows(const Assembly& a) { return a.model->sample_shape().kind == SampleShape::Kind::kTokens ? 2 : 64; }

// What every rank took of memory for a cut of a leaf, and the rows that it was sent.
struct CutSample {
  int64_t bytes = 0, rows = 0;
};

absl::StatusOr<std::vector<CutSample>> MeasureCut(Assembly& a, int64_t samples) {
  CutSample mine;
  ASSIGN_OR_RETURN(mine.bytes, a.field->MeasureLeaf(a.scheme->point(), samples, a.scheme->exchange()));
  mine.rows = a.field->expert_rows();
  std::vector<CutSample> all(static_cast<size_t>(a.mesh->ranks()));
  RETURN_IF_ERROR(a.mesh->control().AllGather("memory", Tensor(&mine, {2}, DType::kI64),
                                              Tensor(all.data(), {int64_t{2} * a.mesh->ranks()}, DType::kI64)));
  return all;
}

// bytes = at_no_rows + bytes_of_row * rows within one cut.
struct CutMoments {
  double bytes = 0, rows = 0;  // means
  double with_rows = 0, of_rows = 0;
};

CutMoments MomentsOf(const std::vector<CutSample>& all) {
  CutMoments m;
  for (const CutSample& s : all) m.bytes += static_cast<double>(s.bytes), m.rows += static_cast<double>(s.rows);
  m.bytes /= static_cast<double>(all.size()), m.rows /= static_cast<double>(all.size());
  for (const CutSample& s : all) {
    const double rows = static_cast<double>(s.rows) - m.rows;
    m.with_rows += rows * (static_cast<double>(s.bytes) - m.bytes), m.of_rows += rows * rows;
  }
  return m;
}

// Ranks are sent as many rows together whatever the routing is: means over ranks are those of an even share.
absl::Status ForetellActivations(Assembly& a, MemoryPlan* plan) {
  const int64_t rows = a.field->leaf_rows(), large = CutRows(a), small = large / 2;
  ASSIGN_OR_RETURN(const std::vector<CutSample> at_large, MeasureCut(a, std::min(rows, large)));
  const CutMoments most = MomentsOf(at_large);
  CutMoments least = most;
  if (rows > large) {
    ASSIGN_OR_RETURN(const std::vector<CutSample> at_small, MeasureCut(a, small));
    least = MomentsOf(at_small);
  }
  const double of_rows = most.of_rows + (rows > large ? least.of_rows : 0),
               with_rows = most.with_rows + (rows > large ? least.with_rows : 0);
  plan->bytes_of_row = of_rows > 0 ? with_rows / of_rows : 0;
  const double cuts = rows > large ? static_cast<double>(rows - large) / static_cast<double>(large - small) : 0;
  plan->activations = std::llround(most.bytes + cuts * (most.bytes - least.bytes));
  plan->even_rows = std::llround(most.rows + cuts * (most.rows - least.rows));
  return absl::OkStatus();
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
  RETURN_IF_ERROR(ForetellActivations(a, &plan));
  plan.activation_bound = static_cast<int64_t>(static_cast<double>(plan.activations) * MostOverShare(a)) + PlansBeyondBound(a);
  a.field->ReserveActivations(plan.activation_bound + plan.activation_bound / 16 + (int64_t{64} << 10));
  StateDict state;
  a.scheme->Register(state);
  for (const StateEntry& entry : state.entries()) plan.scheme_state += entry.data.bytes();
  plan.parameters = a.layout->flat_elements() * SizeOf(a.dtype());
  for (const BlockId id : a.layout->local_blocks()) plan.scheme_state -= a.model->parameters()[id].shape.elements() * SizeOf(a.dtype());
  plan.gradients = a.field->gradient_bytes();
  plan.samples = a.field->sample_bytes();
  plan.node_memory = a.mesh->control().NodeMemory();
  plan.on_disk = OnDisk(a);
  plan.exchange = Standing(a) - plan.parameters - plan.scheme_state - plan.gradients - plan.samples;
  return plan;
}

int64_t MeasuredMemory(const Assembly& a) { return Standing(a) - OnDisk(a) + a.mesh->control().NodeMemory() + a.field->activation_bytes(); }

std::string MemoryTable(const Assembly& a, const MemoryPlan& plan) {
  const auto line = [](const char* what, int64_t bytes) { return absl::StrFormat("  %-34s %12s\n", what, HumanBytes(bytes)); };
  std::string text = absl::StrFormat("memory of this rank (model: %s parameters, %s here)\n", HumanCount(a.model->parameters().elements()),
                                     HumanCount(a.layout->flat_elements())) +
                     line("parameters", plan.parameters) + line("state of the scheme", plan.scheme_state) +
                     line("exchange and scratch", plan.exchange) + line("gradients", plan.gradients) + line("samples", plan.samples) +
                     line("activations of a leaf", plan.activations);
  if (plan.node_memory > 0) text += line("messages inside of the node", plan.node_memory);
  if (plan.on_disk > 0) text += line("of these, experts on disk alone", plan.on_disk);
  text += line("in all", plan.total());
  const bool limited = a.dispatch_setup != nullptr && a.dispatch_setup->most_rows > 0;
  const char* bound = !limited                    ? "activations, all tokens on one rank"
                      : a.dispatch_setup->bounded ? "activations, most_rows at a time"
                                                  : "activations, most_rows on one rank";
  if (plan.bytes_of_row > 0) {
    text += line(absl::StrFormat("a row beyond a leaf's share of %d", plan.even_rows).c_str(), std::llround(plan.bytes_of_row));
  }
  if (plan.activation_bound > plan.activations) {
    text += line(bound, plan.activation_bound);
  }
  return text;
}

int64_t MemoryPlan::TotalFor(int64_t rows) const { return total() + std::llround(bytes_of_row * static_cast<double>(rows - even_rows)); }

std::string MemoryLine(const Assembly& a, const MemoryPlan& plan) {
  const int64_t measured = MeasuredMemory(a), rows = a.field->expert_rows(), planned = plan.TotalFor(rows);
  const double off = 100.0 * static_cast<double>(measured - planned) / static_cast<double>(std::max<int64_t>(planned, 1));
  const std::string share = plan.bytes_of_row == 0 || plan.even_rows == 0
                                ? ""
                                : absl::StrFormat(" for the %.2f of an even share of rows that came",
                                                  static_cast<double>(rows) / static_cast<double>(plan.even_rows));
  return absl::StrFormat("memory: %s at the peak of a step, %+.1f %% off the plan's %s%s; the process holds %s, at most %s so far",
                         HumanBytes(measured), off, HumanBytes(planned), share, HumanBytes(ResidentBytes()),
                         HumanBytes(PeakResidentBytes()));
}

}  // namespace conclave
