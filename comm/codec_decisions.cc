#include "comm/codec_decisions.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "comm/ledger.h"
#include "comm/wire_frame.h"

namespace conclave {
namespace {

constexpr int kRepeats = 3;
constexpr int64_t kProbeBytes = int64_t{1} << 20;
constexpr int kProbes = 4;

// One codec on one vector.
struct CodingTimes {
  double encode_seconds = 0, decode_seconds = 0;  // the shortest of some
  double bytes = 0;                               // of the message, frame included
};

absl::StatusOr<CodingTimes> TimeOf(const Compressor& codec, WorkerId sender, const Tensor& x, const Tensor& decoded) {
  std::vector<std::byte> wire(static_cast<size_t>(codec.MaxWireBytes()));
  const CodecKey key{.worker = sender};
  CodingTimes times{.encode_seconds = INFINITY, .decode_seconds = INFINITY};
  for (int i = 0; i < kRepeats; ++i) {
    const double began = RealClock().Seconds();
    const int64_t bytes = codec.Encode(x, key, wire);
    const double encoded = RealClock().Seconds();
    RETURN_IF_ERROR(codec.Decode(std::span(wire).first(static_cast<size_t>(bytes)), key, decoded));
    times.encode_seconds = std::min(times.encode_seconds, encoded - began);
    times.decode_seconds = std::min(times.decode_seconds, RealClock().Seconds() - encoded);
    times.bytes = static_cast<double>(kFrameBytes + bytes);
  }
  return times;
}

// Times of all pieces of a block together, one way.
absl::StatusOr<CodingTimes> TimeOfBlock(const std::vector<CodedPiece>& pieces, bool up, DType dtype) {
  CodingTimes all;
  for (const CodedPiece& piece : pieces) {
    const OwnedTensor x({piece.range.elements}, dtype), decoded({piece.range.elements}, dtype);
    const RngKey noise{.seed = 1};
    DispatchFloat(dtype, [&](auto t) { noise.FillNormal(0, x->span<decltype(t)>()); });
    ASSIGN_OR_RETURN(const CodingTimes times, TimeOf(up ? *piece.up : *piece.down, up ? WorkerId{0} : kServer, *x, *decoded));
    all.encode_seconds += times.encode_seconds;
    all.decode_seconds += times.decode_seconds;
    all.bytes += times.bytes;
  }
  return all;
}

}  // namespace

double CodingCost::BreakEven() const {
  if (coded_bytes >= exact_bytes) return 0;
  return CodecSeconds() > 0 ? (exact_bytes - coded_bytes) / CodecSeconds() : INFINITY;
}

void CodecDecisions::Offer(const ExchangeContext& context, const BlockCodecs& codecs) {
  for (size_t i = 0; i < costs_.size(); ++i) {
    const BlockId block{static_cast<int>(i)};
    if (!codecs.lossless(block)) {
      offers_[i].push_back({.pieces = &codecs[block], .workers = context.workers.workers, .served = codecs.served()});
    }
  }
}

absl::Status CodecDecisions::Measure(const ExchangeContext& context) {
  const ParameterSet& parameters = context.layout->parameters();
  std::map<std::array<int64_t, 4>, CodingCost> known;  // equal codecs of equal sizes are measured once
  for (size_t i = 0; i < costs_.size(); ++i) {
    const auto offer = std::ranges::find_if(offers_[i], [](const CodecOffer& o) { return !o.pieces->empty(); });
    if (offer == offers_[i].end()) continue;
    const double workers = offer->workers, others = workers - 1;
    const int64_t elements = parameters[{static_cast<int>(i)}].shape.elements();
    const double dense = static_cast<double>(elements * SizeOf(context.dtype));
    std::array<int64_t, 4> size{elements, static_cast<int64_t>(offer->pieces->size())};
    for (const CodedPiece& piece : *offer->pieces) {
      size[2] += piece.up->MaxWireBytes();
      if (piece.down != nullptr) size[3] += piece.down->MaxWireBytes();
    }
    const auto [it, fresh] = known.try_emplace(size);
    CodingCost& cost = it->second;
    if (fresh) {
      cost.exact_bytes = 2 * dense * others / workers;
      ASSIGN_OR_RETURN(const CodingTimes up, TimeOfBlock(*offer->pieces, /*up=*/true, context.dtype));
      cost.encode_seconds = up.encode_seconds, cost.decode_seconds = up.decode_seconds;
      if (offer->served) {
        ASSIGN_OR_RETURN(const CodingTimes down, TimeOfBlock(*offer->pieces, /*up=*/false, context.dtype));
        cost.coded_bytes = (up.bytes + down.bytes) * others / workers;
        cost.encodes = 1 + 1 / workers;
        cost.decode_seconds = (up.decode_seconds + down.decode_seconds) / 2;
      } else {  // messages to everyone, or decoded sums where those are fewer
        cost.coded_bytes = std::min(up.bytes * others, cost.exact_bytes);
        cost.decodes = up.bytes * others < cost.exact_bytes ? workers : 1;
      }
      if (config_.codec_rate() > 0) cost.encode_seconds = cost.decode_seconds = dense / (2 * config_.codec_rate());
    }
    costs_[i] = cost;
  }
  return absl::OkStatus();
}

absl::StatusOr<double> CodecDecisions::LinkRate(Communicator& world) const {
  if (config_.link_rate() > 0) return config_.link_rate();
  if (world.size() == 1) return INFINITY;
  const OwnedTensor data({kProbeBytes}, DType::kU8);
  const int last = world.size() - 1;
  double fastest = INFINITY;
  for (int i = 0; i < kProbes; ++i) {
    if (world.rank() == 0) {
      const double began = RealClock().Seconds();
      RETURN_IF_ERROR(world.Send("exchange.probe", *data, last, 0));
      RETURN_IF_ERROR(world.Recv("exchange.probe", *data, last, 0));
      fastest = std::min(fastest, RealClock().Seconds() - began);
    } else if (world.rank() == last) {
      RETURN_IF_ERROR(world.Recv("exchange.probe", *data, 0, 0));
      RETURN_IF_ERROR(world.Send("exchange.probe", *data, 0, 0));
    }
  }
  return 2 * static_cast<double>(kProbeBytes) / fastest;
}

// The slowest rank's time is everyone's: others wait for it.
absl::Status CodecDecisions::ShareCosts(Communicator& world) {
  constexpr int64_t kNumbers = 6;
  const auto numbers = [](CodingCost& cost) {
    return std::array{&cost.exact_bytes, &cost.coded_bytes, &cost.encodes, &cost.decodes, &cost.encode_seconds, &cost.decode_seconds};
  };
  std::vector<double> flat;
  for (CodingCost& cost : costs_) {
    for (const double* number : numbers(cost)) flat.push_back(cost.exact_bytes > 0 ? *number : 0);
  }
  RETURN_IF_ERROR(world.AllReduce("exchange.costs", Tensor(flat.data(), {static_cast<int64_t>(flat.size())}, DType::kF64), ReduceOp::kMax));
  for (size_t i = 0; i < flat.size(); i += kNumbers) {
    const auto of = numbers(costs_[i / kNumbers]);
    for (size_t n = 0; n < of.size(); ++n) *of[n] = flat[i + n];
  }
  return absl::OkStatus();
}

absl::Status CodecDecisions::Decide(const ExchangeContext& context) {
  if (decided_ == 0) {
    const LedgerAside aside(context.world->ledger());
    RETURN_IF_ERROR(Measure(context));
    RETURN_IF_ERROR(ShareCosts(*context.world));
    ASSIGN_OR_RETURN(link_rate_, LinkRate(*context.world));
    for (size_t i = 0; i < costs_.size(); ++i) {
      declined_[i] = costs_[i].exact_bytes > 0 && !(link_rate_ < costs_[i].BreakEven()) ? 1 : 0;
    }
    RETURN_IF_ERROR(
        context.world->Broadcast("exchange.decision", Tensor(declined_.data(), {static_cast<int64_t>(declined_.size())}, DType::kI64), 0));
    decided_ = 1;
    found_ = declined_;
  }
  if (planned_ != declined_) {
    planned_ = declined_;
    for (const auto& plan : plans_) plan();
  }
  return absl::OkStatus();
}

// A line for each size of block and answer.
void CodecDecisions::Log(const ParameterSet& parameters) const {
  if (declined_ != found_) {
    LOG_INFO << "exchange: the loaded state says which blocks go without their codec: " << std::ranges::count(declined_, 1);
    return;
  }
  std::map<std::pair<int64_t, int64_t>, std::vector<int>> alike;
  for (int i = 0; i < parameters.size(); ++i) {
    if (costs_[static_cast<size_t>(i)].exact_bytes > 0) {
      alike[{parameters[{i}].shape.elements(), declined_[static_cast<size_t>(i)]}].push_back(i);
    }
  }
  for (const auto& [kind, blocks] : alike) {
    const CodingCost& cost = costs_[static_cast<size_t>(blocks[0])];
    LOG_INFO << "exchange: " << (kind.second != 0 ? "no codec" : "codec") << " for "
             << absl::StrFormat(
                    "%d blocks of %d coordinates such as %s: it saves %.4g of %.4g bytes and takes %.3g ms; it pays below %.4g "
                    "bytes/s, the link has %.4g",
                    blocks.size(), kind.first, parameters[{blocks[0]}].name, cost.exact_bytes - cost.coded_bytes, cost.exact_bytes,
                    1e3 * cost.CodecSeconds(), cost.BreakEven(), link_rate_);
  }
}

void CodecDecisions::Register(StateDict& state, const std::string& part, const ParameterSet& parameters) {
  state.AddScalar(part + ".decided", &decided_);
  for (int i = 0; i < parameters.size(); ++i) {
    state.AddScalar(absl::StrFormat("%s.declined/%s", part, parameters[{i}].name), &declined_[static_cast<size_t>(i)]);
  }
}

}  // namespace conclave
