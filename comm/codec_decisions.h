// Which blocks of an exchange keep their codec: those where coding takes less time than the bytes it saves would take on the link.
#ifndef CONCLAVE_COMM_CODEC_DECISIONS_H_
#define CONCLAVE_COMM_CODEC_DECISIONS_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/block_codecs.h"
#include "comm/exchange.h"
#include "proto/comm.pb.h"
#include "tensor/state_dict.h"

namespace conclave {

// What one exchange of one vector costs a rank that hosts one worker of M, seconds of one encoding or decoding of the whole vector.
struct CodingCost {
  double exact_bytes = 0, coded_bytes = 0;
  double encodes = 1, decodes = 2;
  double encode_seconds = 0, decode_seconds = 0;
  double CodecSeconds() const { return encodes * encode_seconds + decodes * decode_seconds; }
  // Bytes a second of the link below which the codec pays; infinite where it costs no time, 0 where it saves no bytes.
  double BreakEven() const;
};

// Made with an exchange, which offers it its codecs and plans by what comes out. The decision is rank 0's, the same on all ranks, and train
// state: one that was loaded stays. Deciding costs an encoding and a decoding of each size of block, three times, and what the link's probe
// sends; none of it is in a step's ledger.
class CodecDecisions {
 public:
  CodecDecisions(const WhenItPaysConfig& config, int blocks)
      : config_(config),
        offers_(static_cast<size_t>(blocks)),
        costs_(static_cast<size_t>(blocks)),
        declined_(static_cast<size_t>(blocks)) {}

  // Notes the codecs of every block that is not lossless; by BlockCodecs. Those that `codecs` has when it comes to deciding are measured:
  // of a block that is dropped by then, none. They must live until then; moving `codecs` is fine.
  void Offer(const ExchangeContext& context, const BlockCodecs& codecs);
  // Zeros until something was decided here.
  const CodingCost& cost(BlockId block) const { return costs_[static_cast<size_t>(block.value)]; }

  // Called with every decision, those that a loaded state brings too.
  void OnDecision(std::function<void()> plan) { plans_.push_back(std::move(plan)); }

  // Once all codecs are offered, and again before vectors travel, when a state may have been loaded: decides, if that was not done or
  // loaded yet. Collective over context.world.
  absl::Status Decide(const ExchangeContext& context);
  // Logs each decision with its reason; those of a state that was loaded have none. On rank 0.
  void Log(const ParameterSet& parameters) const;
  bool Declines(BlockId block) const { return declined_[static_cast<size_t>(block.value)] != 0; }
  void Register(StateDict& state, const std::string& part, const ParameterSet& parameters);

 private:
  // A block's codecs as one exchange has them. Of a hierarchical exchange: the leaders', whose workers are groups.
  struct CodecOffer {
    const std::vector<CodedPiece>* pieces = nullptr;
    int workers = 1;
    bool served = false;
  };
  // What each block's codecs cost, where this rank has them. Rates are measured where the config gives none.
  absl::Status Measure(const ExchangeContext& context);
  // Afterwards every rank has every block's costs: where several measured, the largest.
  absl::Status ShareCosts(Communicator& world);
  absl::StatusOr<double> LinkRate(Communicator& world) const;

  const WhenItPaysConfig config_;
  std::vector<std::vector<CodecOffer>> offers_;  // by block id
  std::vector<CodingCost> costs_;                // by block id
  std::vector<int64_t> declined_;                // by block id, 0 or 1
  int64_t decided_ = 0;
  double link_rate_ = 0;                      // as it was found; 0: not looked for
  std::vector<int64_t> found_, planned_;      // what was decided here; what was planned by
  std::vector<std::function<void()>> plans_;  // who plans
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_CODEC_DECISIONS_H_
