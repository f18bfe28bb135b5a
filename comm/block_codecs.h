// The codecs of an exchange: for each block, or for each part of it where means have a server.
#ifndef CONCLAVE_COMM_BLOCK_CODECS_H_
#define CONCLAVE_COMM_BLOCK_CODECS_H_

#include <memory>
#include <string_view>
#include <vector>

#include "comm/block_parts.h"
#include "comm/compressors.h"
#include "comm/exchange.h"

namespace conclave {

enum class CodecNeed { kUnbiased, kContractive };

// A block, or a part of one that has a server.
struct CodedPiece {
  BlockPart range;
  std::unique_ptr<Compressor> up;
  std::unique_ptr<Compressor> down;  // null: no server

  bool lossless() const { return up->Contract().lossless && (down == nullptr || down->Contract().lossless); }
};

class BlockCodecs {
 public:
  // codec: the member of config.kind() that names the way up. Errors: InvalidArgument, the same on every rank, for a codec that cannot be,
  // has the wrong contract, or makes no sense for one server (correlated between workers). exchange: its name, for messages.
  static absl::StatusOr<BlockCodecs> Make(const ExchangeConfig& config, const CodecConfig& codec, CodecNeed need,
                                          const ExchangeContext& context, std::string_view exchange);
  // Those of the exchange that config.kind() names, with the contract that it needs; identity for kinds without codecs of their own. Errors
  // as those of Make.
  static absl::StatusOr<BlockCodecs> Of(const ExchangeConfig& config, const ExchangeContext& context);
  static BlockCodecs Identity(const ExchangeContext& context);

  bool served() const { return served_; }  // means have servers, and a way down of their own
  size_t size() const { return pieces_.size(); }
  const std::vector<CodedPiece>& operator[](BlockId block) const { return pieces_[static_cast<size_t>(block.value)]; }
  bool lossless(BlockId block) const;
  // A codec other than identity was named for one of the ways, and with none of its blocks can it take fewer bytes than the vector does.
  bool idle() const { return idle_; }
  // The largest variance factor among the block's pieces; unbiased codecs.
  double UpQ(BlockId block) const;
  double DownQ(BlockId block) const;  // 1 without a server
  void Drop(BlockId block) { pieces_[static_cast<size_t>(block.value)].clear(); }

 private:
  std::vector<std::vector<CodedPiece>> pieces_;  // by block id
  bool served_ = false;
  bool idle_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_BLOCK_CODECS_H_
