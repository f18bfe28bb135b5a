// How ranks agree on an outcome: everyone learns of a failure anywhere.
#ifndef CONCLAVE_TRAINER_AGREEMENT_H_
#define CONCLAVE_TRAINER_AGREEMENT_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"

namespace conclave {

inline constexpr int kEveryRank = -1;
inline constexpr int kNoRank = -1;

// Each rank's text, by rank, on `root` or on every rank; elsewhere empty texts. Any bytes. Collective; `label` a literal.
absl::StatusOr<std::vector<std::string>> GatherTexts(Communicator& control, std::string_view label, std::string_view mine,
                                                     int root = kEveryRank);

// root's text on every rank. Collective.
absl::Status BroadcastText(Communicator& control, std::string_view label, int root, std::string* text);

// The lowest rank whose status is not OK, on every rank; kNoRank if all are OK. Collective. Cost: one all-reduce of 8 bytes.
absl::StatusOr<int> LowestFailingRank(Communicator& control, std::string_view label, const absl::Status& mine);

// OK if `mine` is OK on every rank; otherwise, on every rank, the lowest failing rank's status, its message led by rank and host.
// Collective. Cost: one all-reduce of 8 bytes where all is well.
absl::Status AgreeOnOutcome(Communicator& control, std::string_view label, const absl::Status& mine);

// The same, terser: the lowest failing rank's own status there, "WHAT failed on rank r" elsewhere. Collective, one all-reduce.
absl::Status AgreeOn(Communicator& control, const absl::Status& mine, const std::string& what);

// This machine's name.
std::string HostName();

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_AGREEMENT_H_
