// The link rate below which a codec pays: foretold from an exchange's bytes and its time without a link, and found on throttled links.
#include <atomic>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "bench/benches.h"
#include "bench/exchange_of_one_block.h"
#include "comm/ledger.h"
#include "comm/loopback.h"

namespace conclave {
namespace {

constexpr int64_t kElements = int64_t{1} << 21;
constexpr int kRanks = 2;  // a node each

// One vector of 8 MiB a rank, exchanged exactly or through a codec.
class Racer {
 public:
  Racer(Communicator& world, std::unique_ptr<ExchangeOfOneBlock> exchange) : world_(world), exchange_(std::move(exchange)) {}

  // Wall time of one exchange on the slowest rank.
  absl::StatusOr<double> Run() {
    RETURN_IF_ERROR(world_.Barrier("bench: start"));
    world_.ledger()->Take();
    const double began = RealClock().Seconds();
    RETURN_IF_ERROR(exchange_->Run());
    double seconds = RealClock().Seconds() - began;
    sent_ = static_cast<double>(world_.ledger()->Take().BetweenRanks().sent_bytes);
    RETURN_IF_ERROR(world_.AllReduce("bench: time", Tensor(&seconds, {1}, DType::kF64), ReduceOp::kMax));
    return seconds;
  }
  double sent() const { return sent_; }  // bytes of one exchange, by this rank

 private:
  Communicator& world_;
  std::unique_ptr<ExchangeOfOneBlock> exchange_;
  double sent_ = 0;
};

// Both in turn over one kind of link.
struct Race {
  std::vector<double> exact, coded;  // seconds
  absl::Status Sample(Racer& first, Racer& second) {
    ASSIGN_OR_RETURN(const double a, first.Run());
    ASSIGN_OR_RETURN(const double b, second.Run());
    exact.push_back(a), coded.push_back(b);
    return absl::OkStatus();
  }
  // What the codec gains, negative where it loses: the median over neighbours in time, which other processes slow down alike.
  double Lead() const {
    std::vector<double> leads;
    for (size_t i = 0; i < exact.size(); ++i) leads.push_back(exact[i] - coded[i]);
    return TimingOf(leads).median;
  }
};

struct Found {
  double modelled = 0, measured = 0;        // bytes a second
  double exact_bytes = 0, coded_bytes = 0;  // sent by a rank
  double codec_seconds = 0;
};

// The link rate at which the codec's bytes have made up for its time. Infinite where it loses none, 0 where it saves no bytes.
double Modelled(double lead, double exact_bytes, double coded_bytes) {
  if (coded_bytes >= exact_bytes) return 0;
  return lead >= 0 ? INFINITY : (exact_bytes - coded_bytes) / -lead;
}

// All kinds of links in turn, so that what else runs on the machine meets them alike: none, and two around the rate that a first look
// foretells.
absl::Status FindOn(Communicator& world, const std::string& codec, int samples, std::atomic<double>& rate, Found& found) {
  constexpr double kApart = 1.5;
  ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> self, world.Split(world.rank(), 0, "self"));
  ASSIGN_OR_RETURN(auto exact_exchange, ExchangeOfOneBlock::Make(world, *self, kElements, ""));
  ASSIGN_OR_RETURN(auto coded_exchange, ExchangeOfOneBlock::Make(world, *self, kElements, codec));
  Racer first(world, std::move(exact_exchange)), second(world, std::move(coded_exchange));
  Race look;
  for (int i = 0; i < samples; ++i) RETURN_IF_ERROR(look.Sample(first, second));
  // Times are the slowest rank's, bytes equal: both ranks come to the same numbers.
  const double about = Modelled(look.Lead(), first.sent(), second.sent());
  if (!(about > 0 && std::isfinite(about))) {
    return FailedPrecondition("no crossover: %g bytes with the codec, %g without; without a link it is %g s faster", second.sent(),
                              first.sent(), look.Lead());
  }
  const double rates[] = {0, about / kApart, about * kApart};
  Race races[3];
  for (int i = 0; i < samples; ++i) {
    for (int kind = 0; kind < 3; ++kind) {
      RETURN_IF_ERROR(world.Barrier("bench: another link"));
      rate = rates[kind];
      RETURN_IF_ERROR(races[kind].Sample(first, second));
    }
  }
  rate = 0;
  // The lead is linear in 1 / rate: its zero between the two links.
  const double a = 1 / rates[1], b = 1 / rates[2], slow = races[1].Lead(), fast = races[2].Lead();
  if (world.rank() != 0) return absl::OkStatus();
  found = {.modelled = Modelled(races[0].Lead(), first.sent(), second.sent()),
           .measured = 1 / (b - fast * (a - b) / (slow - fast)),
           .exact_bytes = first.sent(),
           .coded_bytes = second.sent(),
           .codec_seconds = -races[0].Lead()};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BenchReport> BenchCrossover(const std::string& codec, int samples) {
  BenchReport report{.bench = "crossover", .ranks = kRanks};
  std::atomic<double> rate = 0;
  Found found;
  RETURN_IF_ERROR(RunRanks(kRanks, [&](Communicator& world) { return FindOn(world, codec, samples, rate, found); },
                           {.nodes = {0, 1}, .link_rate = &rate}));
  BenchResult result{.name = codec, .unit = "GB/s", .work = 1e-9 * 4 * static_cast<double>(kElements)};
  result.seconds = TimingOf({found.codec_seconds});
  result.facts = {{"modelled_mbit", 8e-6 * found.modelled},
                  {"measured_mbit", 8e-6 * found.measured},
                  {"apart", std::abs(found.measured / found.modelled - 1)},
                  {"bytes_exact", found.exact_bytes},
                  {"bytes_coded", found.coded_bytes}};
  report.results.push_back(std::move(result));
  return report;
}

}  // namespace conclave
