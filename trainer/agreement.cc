#include "trainer/agreement.h"

#include <unistd.h>

#include <array>
#include <cstring>
#include <limits>
#include <numeric>

namespace conclave {
namespace {

Tensor BytesOf(std::string* text) { return Tensor(text->data(), {static_cast<int64_t>(text->size())}, DType::kU8); }

}  // namespace

absl::StatusOr<std::vector<std::string>> GatherTexts(Communicator& control, std::string_view label, std::string_view mine, int root) {
  const size_t ranks = static_cast<size_t>(control.size());
  int64_t my_size = static_cast<int64_t>(mine.size());
  std::vector<int64_t> sizes(ranks);
  RETURN_IF_ERROR(control.AllGather(label, Tensor(&my_size, {1}, DType::kI64), Tensor(sizes.data(), {control.size()}, DType::kI64)));

  const bool receives = root == kEveryRank || root == control.rank();
  std::vector<int64_t> send_bytes(ranks, root == kEveryRank ? my_size : 0), send_offsets(ranks, 0), recv_bytes(ranks, 0),
      recv_offsets(ranks, 0);
  if (root != kEveryRank) send_bytes[static_cast<size_t>(root)] = my_size;
  int64_t total = 0;
  for (size_t r = 0; r < ranks && receives; ++r) {
    recv_bytes[r] = sizes[r];
    recv_offsets[r] = total;
    total += sizes[r];
  }
  std::string send(mine), received(static_cast<size_t>(total), '\0');
  Collective op{.kind = CollectiveKind::kAllToAllV, .label = label, .send = BytesOf(&send), .recv = BytesOf(&received)};
  op.send_bytes = send_bytes, op.send_offsets = send_offsets, op.recv_bytes = recv_bytes, op.recv_offsets = recv_offsets;
  RETURN_IF_ERROR(control.AllToAllV(op));

  std::vector<std::string> texts(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    texts[r] = received.substr(static_cast<size_t>(recv_offsets[r]), static_cast<size_t>(recv_bytes[r]));
  }
  return texts;
}

absl::Status BroadcastText(Communicator& control, std::string_view label, int root, std::string* text) {
  int64_t size = static_cast<int64_t>(text->size());
  RETURN_IF_ERROR(control.Broadcast(label, Tensor(&size, {1}, DType::kI64), root));
  text->resize(static_cast<size_t>(size));
  if (size == 0) return absl::OkStatus();
  return control.Broadcast(label, BytesOf(text), root);
}

absl::StatusOr<int> LowestFailingRank(Communicator& control, std::string_view label, const absl::Status& mine) {
  int64_t lowest = mine.ok() ? std::numeric_limits<int64_t>::max() : control.rank();
  RETURN_IF_ERROR(control.AllReduce(label, Tensor(&lowest, {1}, DType::kI64), ReduceOp::kMin));
  return lowest == std::numeric_limits<int64_t>::max() ? kNoRank : static_cast<int>(lowest);
}

absl::Status AgreeOnOutcome(Communicator& control, std::string_view label, const absl::Status& mine) {
  const absl::StatusOr<int> lowest = LowestFailingRank(control, label, mine);
  if (!lowest.ok()) return mine.ok() ? lowest.status() : mine;
  const int first_failing = *lowest;
  if (first_failing == kNoRank) return absl::OkStatus();
  if (control.size() == 1) return mine;
  std::string text;
  if (first_failing == control.rank()) {
    text = absl::StrFormat("%c rank %d on %s: %s", static_cast<char>(mine.code()), control.rank(), HostName(), std::string(mine.message()));
  }
  RETURN_IF_ERROR(BroadcastText(control, label, first_failing, &text));
  return absl::Status(static_cast<absl::StatusCode>(text[0]), text.substr(2));
}

absl::Status AgreeOn(Communicator& control, const absl::Status& mine, const std::string& what) {
  const absl::StatusOr<int> failing = LowestFailingRank(control, "agreement", mine);
  if (!failing.ok()) return mine.ok() ? failing.status() : mine;
  if (*failing == kNoRank) return absl::OkStatus();
  if (*failing == control.rank()) return mine;
  return absl::AbortedError(absl::StrFormat("%s failed on rank %d; its message is there", what, *failing));
}

std::string HostName() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown-host";
  return name.data();
}

}  // namespace conclave
