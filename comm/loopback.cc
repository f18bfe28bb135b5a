#include "comm/loopback.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <tuple>

#include "base/check.h"
#include "base/clock.h"
#include "comm/message_communicator.h"
#include "tensor/products.h"

namespace conclave {
namespace {

constexpr size_t kUsualLetters = 64;  // of one rank to another

class LoopbackMessages;

// A message whose receiver has not taken it yet. The bytes stay with the sender.
struct Letter {
  int source = 0;  // ranks of the world
  int64_t group = 0;
  int tag = 0;
  std::span<const std::byte> data;
  LoopbackMessages* sender = nullptr;
  double arrival = 0;  // on RealClock; 0: at once
};

// What all ranks share. Everything below the mutex is guarded by it.
struct Hub {
  Hub(int ranks, const LoopbackOptions& options)
      : nodes(options.nodes.empty() ? std::vector<int>(ranks, 0) : options.nodes), link_rate(options.link_rate), desks(ranks) {
    // How many letters wait depends on how fast ranks are: room for all that usually can.
    for (Desk& desk : desks) desk.letters.reserve(kUsualLetters * static_cast<size_t>(ranks));
  }

  struct Desk {
    std::vector<Letter> letters;
    std::condition_variable happened;
    int64_t events = 0;                // grows whenever something happened that may let the rank go on
    bool gone = false;                 // the rank has returned
    double out_free = 0, in_free = 0;  // when its links have passed all that was sent so far
  };

  // When a message that is sent now arrives.
  double Arrival(int from, int to, size_t bytes) {
    const double rate = link_rate != nullptr ? link_rate->load() : 0;
    if (rate == 0 || nodes[from] == nodes[to]) return 0;
    const double seconds = static_cast<double>(bytes) / rate;
    double& out_free = desks[from].out_free;
    double& in_free = desks[to].in_free;
    out_free = std::max(RealClock().Seconds(), out_free) + seconds;
    in_free = std::max(out_free, in_free + seconds);
    return in_free;
  }

  void Notify(int rank) {
    ++desks[rank].events;
    desks[rank].happened.notify_all();
  }

  // The rank is done; with an error it takes the others along. What counts is the first error, but for one that only says that another
  // rank failed (absl::StatusCode::kAborted), until that one's comes.
  void Leave(int rank, const absl::Status& status) {
    const std::lock_guard lock(mutex);
    desks[rank].gone = true;
    const bool tells = !absl::IsAborted(status) && !absl::IsUnavailable(status);
    if (!status.ok() && (first_error.ok() || (absl::IsAborted(first_error) && tells))) {
      first_error = status;
      failed_rank = rank;
    }
    for (int r = 0; r < static_cast<int>(desks.size()); ++r) Notify(r);
  }

  const std::vector<int> nodes;
  const std::atomic<double>* const link_rate;
  std::mutex mutex;
  std::vector<Desk> desks;
  absl::Status first_error;
  int failed_rank = -1;
  std::map<std::tuple<int64_t, int64_t, int>, int64_t> groups;  // {parent group, its split number, color} -> group
};

// A receive that was posted and not fulfilled yet.
struct Expected {
  const LoopbackMessages* owner = nullptr;
  int source = 0;  // a rank of the world
  int64_t group = 0;
  int tag = 0;
  std::span<std::byte> data;
  bool SameStream(const Expected& other) const { return source == other.source && group == other.group && tag == other.tag; }
};

class LoopbackEngine final : public ProgressEngine {
 public:
  LoopbackEngine(Hub* hub, int rank, int64_t background_bytes) : hub_(*hub), rank_(rank), background_bytes_(background_bytes) {
    expected_.reserve(kUsualLetters * hub->desks.size());
  }
  int rank() const { return rank_; }
  void Pause(int) override {
    std::unique_lock lock(hub_.mutex);
    Hub::Desk& desk = hub_.desks[rank_];
    const auto happened = [&] { return desk.events != seen_; };
    if (hub_.link_rate == nullptr) return desk.happened.wait(lock, happened);
    double next = std::numeric_limits<double>::infinity();  // arrival of what was still under way when it was looked for
    for (const Letter& letter : desk.letters) {
      if (letter.arrival > looked_) next = std::min(next, letter.arrival);
    }
    if (next == std::numeric_limits<double>::infinity()) return desk.happened.wait(lock, happened);
    desk.happened.wait_for(lock, std::chrono::duration<double>(next - RealClock().Seconds()), happened);
  }
  int64_t BackgroundBytes() const override { return background_bytes_ > 0 ? background_bytes_ : ProgressEngine::BackgroundBytes(); }
  double looked() const { return looked_; }
  // Of all operations of the rank, in the order of posting: messages of one stream go to receives in this order.
  std::vector<Expected>& expected() { return expected_; }

 protected:
  void BeforeProgress() override {
    const std::lock_guard lock(hub_.mutex);
    seen_ = hub_.desks[rank_].events;
    if (hub_.link_rate != nullptr) looked_ = RealClock().Seconds();
  }

 private:
  Hub& hub_;
  int rank_;
  const int64_t background_bytes_;
  int64_t seen_ = 0;
  double looked_ = 0;  // when Progress began: what arrives later is not there yet
  std::vector<Expected> expected_;
};

class LoopbackMessages final : public MessageSet {
 public:
  LoopbackMessages(Hub* hub, LoopbackEngine* engine, int64_t group, const std::vector<int>* members)
      : hub_(*hub), engine_(*engine), group_(group), rank_(engine->rank()), members_(*members), expected_(engine->expected()) {
    destinations_.reserve(members_.size());
  }

  absl::Status PostSend(int peer, int tag, std::span<const std::byte> data) override {
    const int to = members_[peer];
    const std::lock_guard lock(hub_.mutex);
    if (hub_.desks[to].gone) return Gone(to);
    hub_.desks[to].letters.push_back(
        {.source = rank_, .group = group_, .tag = tag, .data = data, .sender = this, .arrival = hub_.Arrival(rank_, to, data.size())});
    destinations_.push_back(to);
    ++unread_;
    hub_.Notify(to);
    return absl::OkStatus();
  }

  absl::Status PostReceive(int peer, int tag, std::span<std::byte> data) override {
    expected_.push_back({.owner = this, .source = members_[peer], .group = group_, .tag = tag, .data = data});
    ++unfulfilled_;
    return absl::OkStatus();
  }

  absl::StatusOr<bool> TestAll() override {
    for (size_t i = 0; unfulfilled_ > 0 && i < expected_.size();) {
      if (expected_[i].owner != this || !IsNextOfItsStream(i)) {
        ++i;
        continue;
      }
      ASSIGN_OR_RETURN(const bool fulfilled, Fulfil(expected_[i]));
      if (!fulfilled) {
        ++i;
        continue;
      }
      expected_.erase(expected_.begin() + static_cast<std::ptrdiff_t>(i));
      --unfulfilled_;
    }
    const std::lock_guard lock(hub_.mutex);
    if (!hub_.first_error.ok()) return Failed();
    if (unfulfilled_ == 0 && unread_ == 0) {
      destinations_.clear();
      return true;
    }
    if (unread_ > 0 && unfulfilled_ == 0) {
      for (const int to : destinations_) {
        if (hub_.desks[to].gone && HasLetterFor(to)) return Gone(to);
      }
    }
    return false;
  }

  void Cancel() override {
    std::unique_lock lock(hub_.mutex);
    for (Hub::Desk& desk : hub_.desks) {
      unread_ -= static_cast<int>(std::erase_if(desk.letters, [&](const Letter& letter) { return letter.sender == this; }));
    }
    // A receiver may be copying right now.
    hub_.desks[rank_].happened.wait(lock, [&] { return unread_ == 0; });
    std::erase_if(expected_, [&](const Expected& e) { return e.owner == this; });
    unfulfilled_ = 0;
    destinations_.clear();
  }

 private:
  bool IsNextOfItsStream(size_t i) const {
    for (size_t j = 0; j < i; ++j) {
      if (expected_[j].SameStream(expected_[i])) return false;
    }
    return true;
  }

  absl::StatusOr<bool> Fulfil(const Expected& slot) {
    Letter letter;
    ASSIGN_OR_RETURN(const bool found, Take(slot, letter));
    if (!found) return false;
    const bool fits = letter.data.size() == slot.data.size();
    if (fits) std::memcpy(slot.data.data(), letter.data.data(), slot.data.size());
    Acknowledge(letter);
    if (!fits) {
      return Internal("message of rank %d to rank %d: expected %d bytes, got %d", slot.source, rank_, slot.data.size(), letter.data.size());
    }
    return true;
  }

  // Takes the oldest matching letter off this rank's desk.
  absl::StatusOr<bool> Take(const Expected& slot, Letter& letter) {
    const std::lock_guard lock(hub_.mutex);
    std::vector<Letter>& letters = hub_.desks[rank_].letters;
    for (size_t i = 0; i < letters.size(); ++i) {
      if (letters[i].source != slot.source || letters[i].group != group_ || letters[i].tag != slot.tag) continue;
      if (letters[i].arrival > engine_.looked()) return false;  // still under way, and those after it too
      letter = letters[i];
      letters.erase(letters.begin() + static_cast<std::ptrdiff_t>(i));
      return true;
    }
    if (!hub_.first_error.ok()) return Failed();
    if (hub_.desks[slot.source].gone) return Gone(slot.source);
    return false;
  }

  void Acknowledge(const Letter& letter) {
    const std::lock_guard lock(hub_.mutex);
    --letter.sender->unread_;
    hub_.Notify(letter.source);
  }

  // The mutex is held in the three below.
  bool HasLetterFor(int to) const {
    for (const Letter& letter : hub_.desks[to].letters) {
      if (letter.sender == this) return true;
    }
    return false;
  }
  absl::Status Gone(int rank) const { return Unavailable("rank %d has returned while rank %d exchanges messages with it", rank, rank_); }
  absl::Status Failed() const {
    return Unavailable("stopped: rank %d failed with: %s", hub_.failed_rank, std::string(hub_.first_error.message()));
  }

  Hub& hub_;
  const LoopbackEngine& engine_;
  int64_t group_;
  int rank_;
  const std::vector<int>& members_;
  std::vector<Expected>& expected_;  // shared with the rank's other sets
  int unfulfilled_ = 0;              // of them this set's
  std::vector<int> destinations_;    // of this set's letters; guarded by the hub's mutex, like unread_
  int unread_ = 0;
};

class LoopbackCommunicator final : public MessageCommunicator {
 public:
  struct Group {
    int64_t id = 0;
    std::vector<int> members;  // world ranks
  };
  LoopbackCommunicator(Hub* hub, std::string name, int rank, Group group, std::shared_ptr<ProgressEngine> engine)
      : MessageCommunicator(std::move(name), rank, static_cast<int>(group.members.size()), std::move(engine)),
        hub_(*hub),
        group_(std::move(group)) {}

  void Set(Ledger* ledger, Watchdog* watchdog) { Attach(ledger, watchdog); }
  int GlobalRank(int member) const override { return group_.members[member]; }
  int Node(int member) const override { return hub_.nodes[group_.members[member]]; }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key, std::string name) override {
    CHECK_GE(color, 0);
    OwnedTensor mine({2}, DType::kI32), all({size(), 2}, DType::kI32);
    mine->data<int32_t>()[0] = color;
    mine->data<int32_t>()[1] = key;
    RETURN_IF_ERROR(AllGather("split", *mine, *all));
    const std::span<int32_t> pairs = all->span<int32_t>();
    std::vector<int> chosen;  // members of this group, in the new order
    for (int r = 0; r < size(); ++r) {
      if (pairs[2 * r] == color) chosen.push_back(r);
    }
    std::stable_sort(chosen.begin(), chosen.end(), [&](int a, int b) { return pairs[2 * a + 1] < pairs[2 * b + 1]; });
    Group group;
    int place = 0;
    for (const int r : chosen) {
      if (r == rank()) place = static_cast<int>(group.members.size());
      group.members.push_back(group_.members[r]);
    }
    {
      const std::lock_guard lock(hub_.mutex);
      const int64_t next = static_cast<int64_t>(hub_.groups.size()) + 1;
      group.id = hub_.groups.try_emplace({group_.id, splits_++, color}, next).first->second;
    }
    auto child = std::make_unique<LoopbackCommunicator>(&hub_, std::move(name), place, std::move(group), engine());
    child->Set(ledger(), watchdog());
    return child;
  }

 protected:
  std::unique_ptr<MessageSet> NewMessageSet() override {
    return std::make_unique<LoopbackMessages>(&hub_, static_cast<LoopbackEngine*>(engine().get()), group_.id, &group_.members);
  }

 private:
  Hub& hub_;
  const Group group_;
  int64_t splits_ = 0;
};

absl::Status RunRank(Hub& hub, int rank, const std::function<absl::Status(Communicator&)>& fn, const LoopbackOptions& options) {
  UseOneComputeThread();
  const int ranks = static_cast<int>(hub.desks.size());
  LoopbackCommunicator::Group group;
  group.members.resize(ranks);
  std::iota(group.members.begin(), group.members.end(), 0);
  LoopbackCommunicator world(&hub, "world", rank, std::move(group), std::make_shared<LoopbackEngine>(&hub, rank, options.background_bytes));
  Ledger ledger;
  std::unique_ptr<Watchdog> watchdog;
  if (options.watchdog.has_value()) {
    WatchdogOptions own = *options.watchdog;
    own.rank = rank;
    own.ranks = ranks;
    ASSIGN_OR_RETURN(watchdog, Watchdog::Start(std::move(own)));
  }
  world.Set(&ledger, watchdog.get());
  return fn(world);
}

}  // namespace

absl::Status RunRanks(int ranks, const std::function<absl::Status(Communicator& world)>& fn, const LoopbackOptions& options) {
  CHECK_GE(ranks, 1);
  CHECK(options.nodes.empty() || static_cast<int>(options.nodes.size()) == ranks);
  Hub hub(ranks, options);
  std::vector<std::thread> threads;
  threads.reserve(ranks);
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] { hub.Leave(r, RunRank(hub, r, fn, options)); });
  }
  for (std::thread& thread : threads) thread.join();
  return hub.first_error;
}

}  // namespace conclave
