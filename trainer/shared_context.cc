#include "trainer/shared_context.h"

#include <algorithm>

#include "comm/part_table.h"

namespace conclave {

absl::Status SharedContext::Exchange(std::span<const std::vector<KvCache::Part>> parts) {
  const int members = group_->size(), me = group_->rank();
  std::vector<int64_t> sizes(4 * static_cast<size_t>(members));
  const PartTable table = PartTable::Over(sizes);
  for (int r = 0; r < members; ++r) {
    for (const KvCache::Part& part : parts[r]) table.recv_bytes[r] += part.count * cache_->row_bytes();
  }
  const int64_t own = table.recv_bytes[me], total = table.received();
  std::vector<std::byte> mine(std::max<int64_t>(own, 1)), all(std::max<int64_t>(total, 1));
  std::byte* at = mine.data();
  for (const KvCache::Part& part : parts[me]) {
    cache_->Pack(part, at);
    at += part.count * cache_->row_bytes();
  }
  RETURN_IF_ERROR(group_->AllToAllV(
      table.ExchangeOfOne("context keys and values", Tensor(mine.data(), {own}, DType::kU8), Tensor(all.data(), {total}, DType::kU8))));
  for (int r = 0; r < members; ++r) {
    const std::byte* from = all.data() + table.recv_offsets[r];
    for (const KvCache::Part& part : parts[r]) {
      if (r != me) cache_->Unpack(part, from);
      from += part.count * cache_->row_bytes();
    }
  }
  return absl::OkStatus();
}

absl::Status SharedContext::SharePrompts(std::span<const Prompt> prompts) {
  std::vector<std::vector<KvCache::Part>> parts(group_->size());
  for (const Prompt& prompt : prompts) {
    for (int layer = 0; layer < cache_->layers(); ++layer) parts[prompt.holder].push_back({layer, prompt.slot, 0, prompt.tokens});
    if (prompt.holder != group_->rank()) cache_->Extend(prompt.slot, prompt.tokens);
  }
  return Exchange(parts);
}

absl::Status SharedContext::ShareStep(std::span<const int> slots, std::span<const uint8_t> visited) {
  const int64_t bits = cache_->layers() * static_cast<int64_t>(slots.size()), bytes = (bits + 7) / 8;
  const auto place = [&](int64_t bit) { return bit / static_cast<int64_t>(slots.size()) * cache_->slots() + slots[bit % slots.size()]; };
  std::vector<uint8_t> mine(bytes), all(bytes * group_->size());
  for (int64_t bit = 0; bit < bits; ++bit) mine[bit / 8] |= static_cast<uint8_t>(visited[place(bit)] << (bit % 8));
  RETURN_IF_ERROR(group_->AllGather("context map", Tensor(mine.data(), {bytes}, DType::kU8),
                                    Tensor(all.data(), {static_cast<int64_t>(all.size())}, DType::kU8)));
  std::vector<std::vector<KvCache::Part>> parts(group_->size());
  int64_t found = 0;
  for (int r = 0; r < group_->size(); ++r) {
    for (int64_t bit = 0; bit < bits; ++bit) {
      if ((all[r * bytes + bit / 8] >> (bit % 8) & 1) == 0) continue;
      const int slot = slots[bit % slots.size()];
      parts[r].push_back({static_cast<int>(bit / static_cast<int64_t>(slots.size())), slot, cache_->length(slot), 1});
      ++found;
    }
  }
  CHECK_EQ(found, bits);
  RETURN_IF_ERROR(Exchange(parts));
  for (const int slot : slots) cache_->Extend(slot, 1);
  return absl::OkStatus();
}

absl::Status SharedContext::ShareTokens(std::span<int32_t> tokens, std::span<int> at) {
  const int64_t n = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> all(n * group_->size());
  RETURN_IF_ERROR(group_->AllGather("generated tokens", Tensor(tokens.data(), {n}, DType::kI32),
                                    Tensor(all.data(), {static_cast<int64_t>(all.size())}, DType::kI32)));
  for (int64_t i = 0; i < n; ++i) {
    for (int r = 0; r < group_->size(); ++r) {
      if (all[r * n + i] < 0) continue;
      tokens[i] = all[r * n + i];
      at[i] = r;
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
