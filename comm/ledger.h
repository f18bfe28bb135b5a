// Ledger: counts every byte on the wire. Physical: what this rank's messages carried. Logical: what workers sent each other, whoever hosts
// them.
#ifndef CONCLAVE_COMM_LEDGER_H_
#define CONCLAVE_COMM_LEDGER_H_

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace conclave {

enum class LinkClass { kSelf, kIntraNode, kInterNode };
inline constexpr int kLinkClasses = 3;

const char* NameOf(LinkClass link);  // "self", "intra-node", "inter-node"

struct WireCount {
  int64_t sent_bytes = 0, sent_messages = 0, received_bytes = 0, received_messages = 0;
  WireCount& operator+=(const WireCount& other);
  bool operator==(const WireCount&) const = default;
};

// One use of one collective.
struct WireLine {
  std::string label;
  CollectiveKind kind = CollectiveKind::kBarrier;
  std::array<WireCount, kLinkClasses> links;  // by LinkClass
};

// What the workers of this rank send, by the formula of the exchange with one worker a rank. On M ranks it equals the physical count to the
// byte.
struct LogicalWire {
  int64_t uplink_bytes = 0;    // vectors on their way to be summed
  int64_t downlink_bytes = 0;  // sums on their way back
  int64_t header_bytes = 0;    // the part of the two that frames messages
  int64_t messages = 0;
  int64_t encoded_bytes = 0;  // the workers' messages, each counted once, without headers
  int64_t dense_bytes = 0;    // the same vectors uncompressed
  LogicalWire& operator+=(const LogicalWire& other);
  bool operator==(const LogicalWire&) const = default;
};

struct WireReport {
  std::vector<WireLine> lines;
  LogicalWire logical;
  // Over all labels. Without self: what crossed between ranks.
  WireCount Total(LinkClass link) const;
  WireCount BetweenRanks() const;
};

// One a rank, of any of its threads. Bytes follow from our own algorithms (comm/message_communicator.h), so every transport
// books the same numbers. Over all ranks, bytes sent equal bytes received.
class Ledger {
 public:
  Ledger();
  void BookSend(std::string_view label, CollectiveKind kind, LinkClass link, int64_t bytes);
  void BookReceive(std::string_view label, CollectiveKind kind, LinkClass link, int64_t bytes);
  void BookLogical(const LogicalWire& wire);

  // While set, what is booked counts in the totals alone: it is no part of a step.
  void SetAside(bool aside);

  // What was booked since the last Take; starts anew. Lines without traffic are left out.
  WireReport Take();
  // Everything up to the last Take, and what was set aside. While nothing is booked.
  const WireReport& totals() const { return totals_; }

 private:
  WireCount& Find(std::string_view label, CollectiveKind kind, LinkClass link);

  std::mutex mutex_;
  WireReport current_, totals_;  // the same lines in the same order
  bool aside_ = false;
};

// Sets aside what is booked in its scope. ledger: may be null.
class LedgerAside {
 public:
  explicit LedgerAside(Ledger* ledger) : ledger_(ledger) {
    if (ledger_ != nullptr) ledger_->SetAside(true);
  }
  ~LedgerAside() {
    if (ledger_ != nullptr) ledger_->SetAside(false);
  }
  LedgerAside(const LedgerAside&) = delete;
  LedgerAside& operator=(const LedgerAside&) = delete;

 private:
  Ledger* const ledger_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_LEDGER_H_
