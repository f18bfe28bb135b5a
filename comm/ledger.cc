#include "comm/ledger.h"

namespace conclave {
namespace {

constexpr size_t kUsualLines = 32;

// Adds `from` to `to`, line by line, and clears `from`.
void Move(WireReport& from, WireReport& to) {
  for (size_t i = 0; i < from.lines.size(); ++i) {
    for (int link = 0; link < kLinkClasses; ++link) {
      to.lines[i].links[link] += from.lines[i].links[link];
      from.lines[i].links[link] = {};
    }
  }
  to.logical += from.logical;
  from.logical = {};
}

}  // namespace

const char* NameOf(LinkClass link) {
  switch (link) {
    case LinkClass::kSelf:
      return "self";
    case LinkClass::kIntraNode:
      return "intra-node";
    case LinkClass::kInterNode:
      return "inter-node";
  }
  return "?";
}

WireCount& WireCount::operator+=(const WireCount& other) {
  sent_bytes += other.sent_bytes;
  sent_messages += other.sent_messages;
  received_bytes += other.received_bytes;
  received_messages += other.received_messages;
  return *this;
}

LogicalWire& LogicalWire::operator+=(const LogicalWire& other) {
  uplink_bytes += other.uplink_bytes;
  downlink_bytes += other.downlink_bytes;
  header_bytes += other.header_bytes;
  messages += other.messages;
  encoded_bytes += other.encoded_bytes;
  dense_bytes += other.dense_bytes;
  return *this;
}

WireCount WireReport::Total(LinkClass link) const {
  WireCount total;
  for (const WireLine& line : lines) total += line.links[static_cast<int>(link)];
  return total;
}

WireCount WireReport::BetweenRanks() const {
  WireCount total = Total(LinkClass::kIntraNode);
  total += Total(LinkClass::kInterNode);
  return total;
}

Ledger::Ledger() {
  current_.lines.reserve(kUsualLines);
  totals_.lines.reserve(kUsualLines);
}

WireCount& Ledger::Find(std::string_view label, CollectiveKind kind, LinkClass link) {
  const auto find = [&](WireReport& report) -> WireCount* {
    for (WireLine& line : report.lines) {
      if (line.kind == kind && line.label == label) return &line.links[static_cast<int>(link)];
    }
    return nullptr;
  };
  WireReport& report = aside_ ? totals_ : current_;
  if (WireCount* count = find(report)) return *count;
  current_.lines.push_back({.label = std::string(label), .kind = kind});
  totals_.lines.push_back({.label = std::string(label), .kind = kind});
  return *find(report);
}

void Ledger::BookSend(std::string_view label, CollectiveKind kind, LinkClass link, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  WireCount& count = Find(label, kind, link);
  count.sent_bytes += bytes;
  ++count.sent_messages;
}

void Ledger::BookReceive(std::string_view label, CollectiveKind kind, LinkClass link, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  WireCount& count = Find(label, kind, link);
  count.received_bytes += bytes;
  ++count.received_messages;
}

void Ledger::BookLogical(const LogicalWire& wire) {
  const std::lock_guard lock(mutex_);
  current_.logical += wire;
}

void Ledger::SetAside(bool aside) {
  const std::lock_guard lock(mutex_);
  aside_ = aside;
}

WireReport Ledger::Take() {
  const std::lock_guard lock(mutex_);
  WireReport report;
  report.logical = current_.logical;
  for (const WireLine& line : current_.lines) {
    bool used = false;
    for (const WireCount& count : line.links) used = used || count != WireCount{};
    if (used) report.lines.push_back(line);
  }
  Move(current_, totals_);
  return report;
}

}  // namespace conclave
