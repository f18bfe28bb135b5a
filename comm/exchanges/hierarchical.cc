// The hierarchical exchange: k = workers_per_group workers form their mean exactly, as those of one node would in its memory; the groups'
// means go through an exchange of their own with one member a group, across the slow links; its outcome goes back inside the groups. To
// the inner exchange a group is a worker: its memories, draws and codecs count groups. What a group is follows from worker ids alone, so a
// layout of ranks that cuts one in two gives the same bits and state.
// Bytes with one worker a rank, n those of the vector: a group sends n (k - 1) to its leader and as many back; the leaders send what the
// inner exchange sends with M / k workers.
#include <optional>

#include "comm/compressor.h"
#include "comm/exchanges.h"
#include "comm/group_bucket.h"

namespace conclave {
namespace {

// The leaders' exchange of one kind of blocks.
struct LeadersExchange {
  std::unique_ptr<Communicator> leaders;
  std::optional<Layout> layout;
  std::unique_ptr<Exchange> exchange;  // null where this rank leads nothing, or there are no such blocks
};

class Hierarchical final : public Exchange {
 public:
  explicit Hierarchical(const ExchangeContext& context, const WorkerGroups& groups)
      : context_(context),
        workers_per_group_(groups.size),
        aggregate_(context.layout, context.dtype),
        places_(context.layout->parameters().size()) {
    for (BucketPlan& plan : PlanBuckets(context, std::vector<bool>(places_.size(), true))) {
      for (size_t i = 0; i < plan.blocks.size(); ++i) {
        places_[static_cast<size_t>(plan.blocks[i].value)] = {.bucket = static_cast<int>(buckets_.size()), .index = static_cast<int>(i)};
      }
      expert_.push_back(plan.expert);
      buckets_.push_back(std::make_unique<GroupBucket>(context, std::move(plan), groups));
    }
  }

  // Collective over the world and the data axis.
  absl::Status MakeInner(const ExchangeConfig& config, const WorkerGroups& groups) {
    bool experts = false;
    for (const BlockSpec& spec : context_.layout->parameters().blocks()) experts = experts || spec.kind == BlockKind::kExpert;
    RETURN_IF_ERROR(MakeLeaders(config, groups, /*expert=*/false));
    return experts ? MakeLeaders(config, groups, /*expert=*/true) : absl::OkStatus();
  }

  void Begin(uint32_t step, uint32_t draw) override {
    next_ = 0;
    for (auto& bucket : buckets_) bucket->Begin();
    for (LeadersExchange& inner : inner_) {
      if (inner.exchange != nullptr) inner.exchange->Begin(step, draw);
    }
  }

  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) override {
    CHECK(!folded) << "the mean of a group needs each worker's own vector";
    const Place place = places_[static_cast<size_t>(block.value)];
    CHECK(place.bucket >= 0) << "block " << block.value << " is not local";
    RETURN_IF_ERROR(buckets_[static_cast<size_t>(place.bucket)]->Put(worker, place.index, span.Flat()));
    while (context_.overlap && next_ < buckets_.size() && buckets_[next_]->full()) RETURN_IF_ERROR(buckets_[next_++]->Start());
    return absl::OkStatus();
  }

  absl::StatusOr<Aggregate> Finish() override {
    while (next_ < buckets_.size()) RETURN_IF_ERROR(buckets_[next_++]->Start());
    for (size_t i = 0; i < buckets_.size(); ++i) {
      RETURN_IF_ERROR(buckets_[i]->FinishSums(
          [&](int group, BlockId block, const Tensor& mean) { return inner_[expert_[i] ? 1 : 0].exchange->Put({group}, block, mean); }));
    }
    const FlatVector* outcome[2] = {};
    for (int kind = 0; kind < 2; ++kind) {
      if (inner_[kind].exchange == nullptr) continue;
      ASSIGN_OR_RETURN(outcome[kind], inner_[kind].exchange->Finish());
    }
    LogicalWire logical;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      RETURN_IF_ERROR(buckets_[i]->StartBack(buckets_[i]->leads() ? outcome[expert_[i] ? 1 : 0] : nullptr));
      logical += buckets_[i]->logical();
    }
    for (auto& bucket : buckets_) RETURN_IF_ERROR(bucket->Deliver(aggregate_));
    if (context_.world->ledger() != nullptr) context_.world->ledger()->BookLogical(logical);
    return &aggregate_;
  }

  void Commit() override {
    for (LeadersExchange& inner : inner_) {
      if (inner.exchange != nullptr) inner.exchange->Commit();
    }
  }
  void Discard() override {
    for (LeadersExchange& inner : inner_) {
      if (inner.exchange != nullptr) inner.exchange->Discard();
    }
  }
  const PoisonCause* poison() const override {
    for (const LeadersExchange& inner : inner_) {
      const PoisonCause* const cause = inner.exchange == nullptr ? nullptr : inner.exchange->poison();
      if (cause == nullptr) continue;
      of_group_ = *cause;
      if (cause->worker == kServer) return &of_group_;
      of_group_.worker = {cause->worker.value * workers_per_group_};
      of_group_.workers = workers_per_group_;
      return &of_group_;
    }
    return nullptr;
  }
  bool wants_each_worker() const override { return true; }
  void Register(StateDict& state, const std::string& part) override {
    if (inner_[0].exchange != nullptr) inner_[0].exchange->Register(state, part + ".groups");
    if (inner_[1].exchange != nullptr) inner_[1].exchange->Register(state, part + ".expert_groups");
  }

 private:
  struct Place {
    int bucket = -1, index = 0;
  };

  absl::Status MakeLeaders(const ExchangeConfig& config, const WorkerGroups& groups, bool expert) {
    Communicator& all = expert ? *context_.data : *context_.world;
    bool leads = false;
    for (int group = 0; group < groups.groups; ++group) leads = leads || groups.LeaderOf(context_.workers, expert, group) == all.rank();
    LeadersExchange& inner = inner_[expert ? 1 : 0];
    ASSIGN_OR_RETURN(inner.leaders, all.Split(leads ? 0 : 1, all.rank(), expert ? "data leaders" : "leaders"));
    const absl::Status made = leads ? MakeExchangeOf(config, groups, expert) : absl::OkStatus();
    // What the leaders refuse, all refuse.
    int64_t refused = made.ok() ? 0 : 1;
    RETURN_IF_ERROR(all.AllReduce("exchange.groups agree", Tensor(&refused, {1}, DType::kI64), ReduceOp::kMax));
    if (made.ok() && refused != 0) return InvalidArgument("hierarchical.exchange: refused by the leaders of groups, who say why");
    return made;
  }

  absl::Status MakeExchangeOf(const ExchangeConfig& config, const WorkerGroups& groups, bool expert) {
    LeadersExchange& inner = inner_[expert ? 1 : 0];
    const ParameterSet& parameters = context_.layout->parameters();
    const int me = inner.leaders->rank(), size = inner.leaders->size();
    std::vector<BlockHome> homes(static_cast<size_t>(parameters.size()));
    for (const BlockId id : context_.layout->local_blocks()) {
      if ((parameters[id].kind == BlockKind::kExpert) != expert) continue;
      for (int j = 0; j < size; ++j) homes[static_cast<size_t>(id.value)].owners.push_back(j);
    }
    inner.layout.emplace(&parameters, me, std::move(homes));
    ExchangeContext own = context_;
    own.layout = &*inner.layout;
    own.workers = {.workers = groups.groups, .ranks = size};
    // Leaders ascend with their groups, wherever the workers are.
    int before = -1;
    for (int group = 0; group < groups.groups; ++group) {
      const int leader = groups.LeaderOf(context_.workers, expert, group);
      if (leader != before) own.workers.firsts.push_back(group);
      before = leader;
    }
    own.workers.firsts.push_back(groups.groups);
    own.world = own.data = inner.leaders.get();
    own.world_size_invariant = true;
    ASSIGN_OR_RETURN(inner.exchange, MakeExchange(config, own));
    return absl::OkStatus();
  }

  const ExchangeContext context_;
  const int workers_per_group_;
  mutable PoisonCause of_group_;
  FlatVector aggregate_;
  std::vector<Place> places_;  // by block id
  std::vector<std::unique_ptr<GroupBucket>> buckets_;
  std::vector<bool> expert_;  // by bucket
  size_t next_ = 0;           // the bucket whose turn it is
  LeadersExchange inner_[2];  // of replicated blocks, and of experts'
};

}  // namespace

ExchangeOr MakeHierarchicalExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  const int64_t size = config.hierarchical().workers_per_group();
  const int workers = context.workers.workers;
  if (size < 1 || size > workers || workers % size != 0) {
    return InvalidArgument("hierarchical: workers_per_group must divide the number of workers, %d, got %d", workers, size);
  }
  if (config.has_downlink()) {
    return InvalidArgument("exchange.downlink: between groups it belongs into hierarchical.exchange, inside them means go as they are");
  }
  const WorkerGroups groups{.size = static_cast<int>(size), .groups = workers / static_cast<int>(size)};
  auto exchange = std::make_unique<Hierarchical>(context, groups);
  RETURN_IF_ERROR(exchange->MakeInner(config.hierarchical().exchange(), groups));
  return exchange;
}

}  // namespace conclave
