#include "optim/not_finite.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "comm/compressor.h"
#include "comm/ledger.h"
#include "tensor/reduce.h"

namespace conclave {
namespace {

constexpr int64_t kNothing = std::numeric_limits<int64_t>::max();
constexpr size_t kMostText = 1024;

// What this rank has found. The lowest worker counts, then the lowest block; a mean comes after all workers.
struct Finding {
  int64_t worker = kNothing, block = kNothing;
  std::string text;

  void Take(int64_t of_worker, int64_t of_block, const std::function<std::string()>& say) {
    if (std::pair(of_worker, of_block) >= std::pair(worker, block)) return;
    worker = of_worker, block = of_block;
    text = say();
  }
};

class Search {
 public:
  Search(const ParameterSet& parameters, Communicator& world) : parameters_(parameters), world_(world) {}

  void InMessages(const Exchange& exchange) {
    const PoisonCause* const cause = exchange.poison();
    if (cause == nullptr) return;
    finding_.Take(cause->worker.value, cause->block.value, [&] {
      const std::string text = Place(WhoOf(*cause), cause->block, cause->index, cause->value);
      return cause->codec.empty() ? text : text + " is beyond the range of codec { " + std::string(cause->codec) + " }";
    });
  }

  absl::Status InVectors(const std::function<absl::Status(const OnBlock&)>& vectors) {
    return vectors([this](WorkerId worker, BlockId block, const Tensor& span, bool) {
      if (const int64_t index = AllFinite(span) ? -1 : FirstNotFinite(span); index >= 0) {
        finding_.Take(worker.value, block.value,
                      [&] { return Place(absl::StrFormat("worker %d", worker.value), block, index, ValueAt(span, index)); });
      }
      return absl::OkStatus();
    });
  }

  void InMean(const FlatVector& mean) {
    for (const BlockId block : mean.layout().local_blocks()) {
      const int64_t index = FirstNotFinite(mean.block(block));
      if (index < 0) continue;
      finding_.Take(kNothing - 1, block.value,
                    [&] { return Place("every worker's vector is finite, their mean", block, index, ValueAt(mean.block(block), index)); });
    }
  }

  // The text of the rank that has found most, on every rank; empty: no rank has found anything.
  absl::StatusOr<std::string> Agree() {
    std::array<int64_t, 2> mine = {finding_.worker, finding_.block};
    std::vector<int64_t> all(2 * static_cast<size_t>(world_.size()));
    RETURN_IF_ERROR(world_.AllGather("not finite", Tensor(mine.data(), {2}, DType::kI64),
                                     Tensor(all.data(), {static_cast<int64_t>(all.size())}, DType::kI64)));
    int lowest = 0;
    for (int r = 1; r < world_.size(); ++r) {
      if (std::pair(all[2 * r], all[2 * r + 1]) < std::pair(all[2 * lowest], all[2 * lowest + 1])) lowest = r;
    }
    if (all[2 * lowest] == kNothing) return std::string();
    std::string text = finding_.text;
    text.resize(kMostText);
    RETURN_IF_ERROR(world_.Broadcast("not finite", Tensor(text.data(), {static_cast<int64_t>(kMostText)}, DType::kU8), lowest));
    return std::string(text.c_str());
  }

 private:
  static std::string WhoOf(const PoisonCause& cause) {
    if (cause.worker == kServer) return "mean on its way back";
    if (cause.workers == 1) return absl::StrFormat("worker %d", cause.worker.value);
    return absl::StrFormat("mean of workers %d to %d", cause.worker.value, cause.worker.value + cause.workers - 1);
  }
  std::string Place(const std::string& who, BlockId block, int64_t index, double value) const {
    return absl::StrFormat("%s, block '%s': %g at index %d", who, parameters_[block].name, value, index);
  }

  const ParameterSet& parameters_;
  Communicator& world_;
  Finding finding_;
};

}  // namespace

absl::StatusOr<std::string> WhyNotFinite(const ParameterSet& parameters, Communicator& world, const Suspects& suspects) {
  const LedgerAside aside(world.ledger());
  Search search(parameters, world);
  std::string why;
  if (suspects.exchange != nullptr) {
    search.InMessages(*suspects.exchange);
    ASSIGN_OR_RETURN(why, search.Agree());
  }
  if (why.empty() && suspects.vectors) {
    RETURN_IF_ERROR(search.InVectors(suspects.vectors));
    ASSIGN_OR_RETURN(why, search.Agree());
  }
  if (why.empty() && suspects.mean != nullptr) {
    search.InMean(*suspects.mean);
    ASSIGN_OR_RETURN(why, search.Agree());
  }
  return why;
}

}  // namespace conclave
