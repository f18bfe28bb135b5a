// How ranks agree on the course of a save or a load: everyone learns of a failure anywhere, with its message.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_AGREEMENT_H_
#define CONCLAVE_TRAINER_CHECKPOINT_AGREEMENT_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"

namespace conclave {

inline constexpr int kEveryRank = -1;

// Each rank's text, by rank, on `root` or on every rank; elsewhere empty texts. Any bytes. Collective; `label` a literal.
absl::StatusOr<std::vector<std::string>> GatherTexts(Communicator& control, std::string_view label, std::string_view mine,
                                                     int root = kEveryRank);

// root's text on every rank. Collective.
absl::Status BroadcastText(Communicator& control, std::string_view label, int root, std::string* text);

// OK if `mine` is OK on every rank; otherwise, on every rank, the lowest failing rank's status, its message led by rank and host.
// Collective. Cost: one all-reduce of 8 bytes where all is well.
absl::Status AgreeOnOutcome(Communicator& control, std::string_view label, const absl::Status& mine);

// This machine's name.
std::string HostName();

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_AGREEMENT_H_
