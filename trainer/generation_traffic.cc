#include "trainer/generation_traffic.h"

#include <iterator>

namespace conclave {
namespace {

// What MoE generation sends, by label.
constexpr const char* kTrafficLabels[] = {"dispatch rows",           "combine rows", "dispatch counts", "dispatch slots",
                                          "context keys and values", "context map",  "generated tokens"};

}  // namespace

int64_t GenerationTraffic::bytes() const {
  int64_t sum = 0;
  for (const Line& line : lines) sum += line.bytes;
  return sum;
}

absl::StatusOr<GenerationTraffic> SumTraffic(Communicator& control, const WireReport& report, std::pair<int64_t, int64_t> moves) {
  constexpr int kColumns = 3, kLabels = std::size(kTrafficLabels);
  std::vector<int64_t> counts(kLabels * kColumns + 2);
  for (int label = 0; label < kLabels; ++label) {
    int64_t* const row = counts.data() + label * kColumns;
    for (const WireLine& line : report.lines) {
      if (line.label != kTrafficLabels[label]) continue;
      const WireCount &inside = line.links[static_cast<int>(LinkClass::kIntraNode)],
                      &between = line.links[static_cast<int>(LinkClass::kInterNode)];
      row[0] += inside.sent_bytes + between.sent_bytes;
      row[1] += between.sent_bytes;
      row[2] += inside.sent_messages + between.sent_messages;
    }
  }
  counts[kLabels * kColumns] = moves.first, counts[kLabels * kColumns + 1] = moves.second;
  RETURN_IF_ERROR(
      control.AllReduce("generation traffic", Tensor(counts.data(), {static_cast<int64_t>(counts.size())}, DType::kI64), ReduceOp::kSum));
  GenerationTraffic traffic{.moves = counts[kLabels * kColumns], .hops = counts[kLabels * kColumns + 1]};
  for (int label = 0; label < kLabels; ++label) {
    const int64_t* const row = counts.data() + label * kColumns;
    if (row[2] > 0) traffic.lines.push_back({kTrafficLabels[label], row[0], row[1], row[2]});
  }
  return traffic;
}

}  // namespace conclave
