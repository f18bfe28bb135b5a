#include "trainer/routing_replay.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "base/log.h"
#include "trainer/agreement.h"

namespace conclave {
namespace {

template <typename T>
std::string_view BytesOfVector(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <typename T>
std::vector<T> VectorOfBytes(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// Of those asked for (0: all), how many there are.
int64_t HeldOutBatches(const Assembly& a, int64_t batches) {
  const int64_t available = a.data.evaluation.batches(a.held_out_rows);
  return batches == 0 ? available : std::min(batches, available);
}

// Is a trace of `recorded` one of these batches? Collective.
absl::Status CheckBatches(const Assembly& a, const std::string& recorded, int64_t batches) {
  if (recorded.empty()) {
    if (a.mesh->rank() == 0) LOG_WARNING << "routing: the trace does not say of which tokens it is; their number fits";
    return absl::OkStatus();
  }
  if (recorded == kSampledBatches) {
    return InvalidArgument(
        "routing: the trace holds tokens that were drawn from many batches of a training run; to be replayed, routing must be recorded by "
        "an evaluation");
  }
  ASSIGN_OR_RETURN(const std::string here, HeldOutDigest(a, batches));
  if (recorded == here) return absl::OkStatus();
  return InvalidArgument("routing: the trace is of other tokens, with the digest %s; the held-out batches here have %s", recorded, here);
}

}  // namespace

absl::StatusOr<TraceHeader> RoutingHeader(const Assembly& a) {
  const std::vector<int> experts = a.model->experts();
  if (experts.empty()) return FailedPrecondition("routing: the model has no experts");
  const MoeConfig& moe = a.config.model().moe_lm().moe();
  if (moe.router() == MoeConfig::EXPERT_CHOICE) {
    return FailedPrecondition("routing: with EXPERT_CHOICE tokens have no fixed number of experts, and a trace cannot hold them");
  }
  TraceHeader header{.experts = experts[0],
                     .layers = static_cast<int>(experts.size()),
                     .top_k = static_cast<int>(moe.top_k()),
                     .seed = static_cast<uint64_t>(a.config.seed())};
  for (const SourceConfig& source : a.config.data().sources()) {
    if (source.has_text()) header.corpus += (header.corpus.empty() ? "" : ", ") + source.text().path();
  }
  return header;
}

absl::StatusOr<RoutingTrace> GatherRouting(const Assembly& a, const RoutingLog& log, const RoutingOrigin& origin) {
  ASSIGN_OR_RETURN(TraceHeader header, RoutingHeader(a));
  header.step = origin.step;
  header.checkpoint = origin.checkpoint;
  header.batches = origin.batches;
  Communicator& control = a.mesh->control();
  const absl::StatusOr<RoutingLog::Passes> passes = log.ToPasses(header.layers, header.top_k);
  RETURN_IF_ERROR(AgreeOn(control, passes.status(), "recording the routing"));
  const RoutingLog::Passes& mine = *passes;
  ASSIGN_OR_RETURN(const std::vector<std::string> tokens, GatherTexts(control, "routing passes", BytesOfVector(mine.tokens)));
  ASSIGN_OR_RETURN(const std::vector<std::string> chosen, GatherTexts(control, "routing ids", BytesOfVector(mine.ids)));
  std::vector<RoutingLog::Passes> all(control.size());
  for (size_t r = 0; r < all.size(); ++r) all[r] = {VectorOfBytes<int64_t>(tokens[r]), VectorOfBytes<int32_t>(chosen[r])};
  std::vector<int32_t> ids;
  std::vector<int64_t> at(all.size(), 0);
  const int64_t row = int64_t{header.layers} * header.top_k;
  for (size_t pass = 0, left = 1; left > 0; ++pass) {
    left = 0;
    for (size_t r = 0; r < all.size(); ++r) {
      if (pass >= all[r].tokens.size()) continue;
      ++left;
      const auto from = all[r].ids.begin() + at[r];
      at[r] += all[r].tokens[pass] * row;
      ids.insert(ids.end(), from, all[r].ids.begin() + at[r]);
    }
  }
  return RoutingTrace::Make(header, std::move(ids));
}

absl::StatusOr<std::string> HeldOutDigest(const Assembly& a, int64_t batches) {
  const int64_t rows = a.held_out_rows, count = HeldOutBatches(a, batches);
  BatchBuffer buffer(a.model->sample_shape(), 0, a.dtype());
  Digest64 digest;
  absl::Status read;
  for (int64_t batch = 0; batch < count && read.ok(); ++batch) {
    read = a.data.evaluation.Fill(batch, rows, &buffer);
    if (read.ok()) digest.Update(buffer.batch().tokens.AsBytes());
  }
  RETURN_IF_ERROR(AgreeOn(a.mesh->control(), read, "reading the held-out batches"));
  return absl::StrFormat("%016x", digest.Value());
}

absl::StatusOr<RoutingLog> HeldOutRouting(const Assembly& a, const RoutingTrace& trace, int64_t batches) {
  ASSIGN_OR_RETURN(const TraceHeader header, RoutingHeader(a));
  if (trace.layers() != header.layers || trace.experts() != header.experts || trace.top_k() != header.top_k) {
    return InvalidArgument("routing: the trace has %d MoE layers of %d experts, %d a token; the model has %d of %d, %d a token",
                           trace.layers(), trace.experts(), trace.top_k(), header.layers, header.experts, header.top_k);
  }
  const int64_t rows = a.held_out_rows, count = HeldOutBatches(a, batches), context = a.model->context();
  const auto tokens_of = [&](int64_t batch) { return std::min(rows, a.data.evaluation.size() - batch * rows) * context; };
  RoutingLog::Passes mine;
  int64_t first = 0;
  const int64_t row = int64_t{header.layers} * header.top_k, ranks = a.mesh->ranks();
  for (int64_t batch = 0; batch < (count + ranks - 1) / ranks * ranks; ++batch) {
    const int64_t tokens = batch < count ? tokens_of(batch) : 0;
    if (batch % ranks == a.mesh->rank() && first + tokens <= trace.tokens()) {
      mine.tokens.push_back(tokens);  // a turn without a batch is a pass without tokens
      const auto from = trace.ids().begin() + first * row;
      mine.ids.insert(mine.ids.end(), from, from + tokens * row);
    }
    first += tokens;
  }
  if (first != trace.tokens()) {
    return InvalidArgument(
        "routing: the trace holds %d tokens, %d held-out batches have %d; give the number of batches it was recorded with", trace.tokens(),
        count, first);
  }
  RETURN_IF_ERROR(CheckBatches(a, trace.header().batches, batches));
  return RoutingLog::OfPasses(mine, header.layers, header.top_k);
}

}  // namespace conclave
