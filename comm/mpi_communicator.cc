#include "comm/mpi_communicator.h"

#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "comm/message_communicator.h"
#include "comm/node_window.h"
#include "comm/wait_pace.h"
#include "comm/watchdog.h"

namespace conclave {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 30;  // MPI counts are int
// To other nodes a message goes in pieces that Open MPI sends at once, without asking the receiver first (over TCP up to 64 KiB, its own
// header included). A longer one waits for an answer, and the answer waits behind all data that the receiver is sending on that connection:
// between ranks that send to each other at the same time this leaves links idle half the time.
constexpr int64_t kPieceBetweenNodes = int64_t{60} << 10;
// Not so in the background, where many messages are under way and an answer may take its time: a long one is copied on neither side, which
// is what such an exchange costs beside the rank's own work.
constexpr int64_t kBackgroundPiece = int64_t{512} << 10;
// Within a node, messages up to this length go through rings in shared memory, which takes less time than MPI. For longer ones its one copy
// by the kernel, for which the sender need make no call, costs as little; only what all ranks are at together gains still.
constexpr int64_t kLongestInLane = int64_t{64} << 10;
// Sums of longer vectors read the other ranks' memory, where the system allows it.
constexpr int64_t kLongestSumInLane = int64_t{1} << 20;
constexpr size_t kHostBytes = 64;

absl::Status ToStatus(int code, const char* call) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return Unavailable("%s failed: %s", call, std::string(text.data(), length));
}

class MpiEngine final : public ProgressEngine {
 public:
  MpiEngine() { prctl(PR_SET_TIMERSLACK, kTimerSlackNanoseconds, 0, 0, 0); }
  ~MpiEngine() override { StopThread(); }
  void Pause(int tries) override {
    const int64_t now = RealClock().MonotonicNanos();
    if (arrived_.exchange(false, std::memory_order_relaxed) || tries == 0) pace_.Restart(now);
    if (const int microseconds = pace_.Next(now); microseconds > 0) {
      usleep(static_cast<unsigned>(microseconds));
    } else {
      sched_yield();
      pace_.NoteGiven(now, RealClock().MonotonicNanos());
    }
  }
  void NoteArrival() override { arrived_.store(true, std::memory_order_relaxed); }
  // Not while something in front waits for the same connections, but for a little now and then: ranks whose calls come in different orders
  // must not wait for each other.
  bool MaySendInBackground() override {
    const double now = RealClock().Seconds();
    if (in_front() > 0 && now - background_sent_ < kLongestHoldSeconds) return false;
    background_sent_ = now;
    return true;
  }
  int64_t BackgroundBytes() const override { return kBackgroundPiece; }
  // Of the communicators that there are.
  std::vector<const NodeWindow*>& windows() { return windows_; }

 private:
  static constexpr unsigned long kTimerSlackNanoseconds = 1000;  // the kernel's usual 50 us would be most of a short sleep
  static constexpr double kLongestHoldSeconds = 0.02;
  double background_sent_ = 0;         // when one in the background was last allowed to send
  std::atomic<bool> arrived_ = false;  // since the last pause
  WaitPace pace_;
  std::vector<const NodeWindow*> windows_;
};

struct Place {
  int global_rank = 0;
  int node = 0;
};

class MpiMessages final : public MessageSet {
 public:
  // window: takes the messages of collectives up to a length; null: none.
  MpiMessages(MPI_Comm comm, int rank, const std::vector<Place>* places, NodeWindow* window, MpiEngine* engine)
      : comm_(comm), engine_(*engine), node_((*places)[rank].node), places_(*places), window_(window) {
    constexpr size_t kUsualPieces = 64;
    requests_.reserve(2 * places->size() + (SpansNodes() ? kUsualPieces : 0));
  }

  void UseFor(MessageUse use) override {
    between_nodes_ = use == MessageUse::kBackground ? kBackgroundPiece : kPieceBetweenNodes;
    longest_in_lane_ = use == MessageUse::kPieces ? kPieceBytes : kLongestInLane;
  }

  absl::Status PostSend(int peer, int tag, std::span<const std::byte> data) override {
    if (RingLane* const lane = LaneOf(tag, data.size()); lane != nullptr) {
      lane->Send(peer, tag, data, &in_lane_);
      return absl::OkStatus();
    }
    const int64_t most = MostBytes(peer);
    for (int64_t at = 0; at < static_cast<int64_t>(data.size()); at += most) {
      const int bytes = static_cast<int>(std::min<int64_t>(most, static_cast<int64_t>(data.size()) - at));
      RETURN_IF_ERROR(ToStatus(MPI_Isend(data.data() + at, bytes, MPI_BYTE, peer, tag, comm_, &Next()), "MPI_Isend"));
    }
    return absl::OkStatus();
  }

  absl::Status PostReceive(int peer, int tag, std::span<std::byte> data) override {
    if (RingLane* const lane = LaneOf(tag, data.size()); lane != nullptr) {
      lane->Receive(peer, tag, data, &in_lane_);
      return absl::OkStatus();
    }
    const int64_t most = MostBytes(peer);
    for (int64_t at = 0; at < static_cast<int64_t>(data.size()); at += most) {
      const int bytes = static_cast<int>(std::min<int64_t>(most, static_cast<int64_t>(data.size()) - at));
      RETURN_IF_ERROR(ToStatus(MPI_Irecv(data.data() + at, bytes, MPI_BYTE, peer, tag, comm_, &Next()), "MPI_Irecv"));
    }
    return absl::OkStatus();
  }

  // In the order of posting, so that looking again costs nothing for what is complete; a failing test makes progress on all.
  absl::StatusOr<bool> TestAll() override {
    for (; completed_ < requests_.size(); ++completed_) {
      int complete = 0;
      RETURN_IF_ERROR(ToStatus(MPI_Test(&requests_[completed_], &complete, MPI_STATUS_IGNORE), "MPI_Test"));
      if (complete == 0) return false;
      engine_.NoteArrival();
    }
    while (in_lane_ > 0) {
      ASSIGN_OR_RETURN(const bool moved, lane_->Move());
      if (!moved) return false;
      engine_.NoteArrival();
    }
    Clear();
    return true;
  }

  // Receives are withdrawn; MPI keeps the buffers of sends that no one received, which is harmless in a job that is ending.
  void Cancel() override {
    for (MPI_Request& request : requests_) {
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
    if (lane_ != nullptr) lane_->Drop(&in_lane_);
    Clear();
  }

 private:
  // Null: the message goes by MPI. All messages of a set are of one operation, so of one lane.
  RingLane* LaneOf(int tag, size_t bytes) {
    if (window_ == nullptr || tag >= kCollectiveTags || static_cast<int64_t>(bytes) > longest_in_lane_) return nullptr;
    return lane_ = &window_->lane(tag % kStreams);
  }
  MPI_Request& Next() { return requests_.emplace_back(MPI_REQUEST_NULL); }
  void Clear() {
    requests_.clear();
    completed_ = 0;
  }
  int64_t MostBytes(int peer) const { return places_[peer].node == node_ ? kPieceBytes : between_nodes_; }
  bool SpansNodes() const {
    return std::any_of(places_.begin(), places_.end(), [&](const Place& place) { return place.node != node_; });
  }

  MPI_Comm comm_;
  MpiEngine& engine_;
  const int node_;
  const std::vector<Place>& places_;
  std::vector<MPI_Request> requests_;
  int64_t between_nodes_ = kPieceBetweenNodes, longest_in_lane_ = kLongestInLane;  // messages, in bytes
  size_t completed_ = 0;                                                           // the first so many requests
  NodeWindow* const window_;
  RingLane* lane_ = nullptr;
  int64_t in_lane_ = 0;  // messages that are not through
};

// Collective. Null where the members are not all on one node.
absl::StatusOr<std::unique_ptr<NodeWindow>> WindowOf(MPI_Comm comm, const std::vector<Place>& places) {
  const bool one_node = std::all_of(places.begin(), places.end(), [&](const Place& place) { return place.node == places[0].node; });
  return one_node ? NodeWindow::Open(comm) : std::unique_ptr<NodeWindow>();
}

class MpiCommunicator final : public MessageCommunicator {
 public:
  // Takes `comm` over. window: null, or of all members; then collectives go through it.
  MpiCommunicator(std::string name, MPI_Comm comm, std::vector<Place> places, std::unique_ptr<NodeWindow> window,
                  std::shared_ptr<MpiEngine> engine)
      : MessageCommunicator(std::move(name), RankOf(comm), static_cast<int>(places.size()), engine),
        comm_(comm),
        mpi_engine_(std::move(engine)),
        places_(std::move(places)),
        window_(std::move(window)) {
    if (window_ != nullptr) mpi_engine_->windows().push_back(window_.get());
  }

  ~MpiCommunicator() override {
    const std::lock_guard lock(mpi_engine_->mutex());
    if (window_ != nullptr) std::erase(mpi_engine_->windows(), window_.get());
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0) MPI_Comm_free(&comm_);
  }

  void Set(Ledger* ledger, Watchdog* watchdog) { Attach(ledger, watchdog); }
  void StartProgressThread() override { mpi_engine_->StartThread(); }
  void StopThread() { mpi_engine_->StopThread(); }
  int GlobalRank(int member) const override { return places_[member].global_rank; }
  int Node(int member) const override { return places_[member].node; }
  int64_t NodeMemory() const override {
    const std::lock_guard lock(mpi_engine_->mutex());
    int64_t bytes = 0;
    for (const NodeWindow* window : mpi_engine_->windows()) bytes += window->expected_bytes();
    return bytes;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key, std::string name) override {
    CHECK_GE(color, 0);
    OwnedTensor mine({2}, DType::kI32), all({size(), 2}, DType::kI32);
    mine->data<int32_t>()[0] = color;
    mine->data<int32_t>()[1] = key;
    RETURN_IF_ERROR(AllGather("split", *mine, *all));
    const std::span<int32_t> pairs = all->span<int32_t>();
    std::vector<int> chosen;
    for (int r = 0; r < size(); ++r) {
      if (pairs[2 * r] == color) chosen.push_back(r);
    }
    std::stable_sort(chosen.begin(), chosen.end(), [&](int a, int b) { return pairs[2 * a + 1] < pairs[2 * b + 1]; });
    std::vector<Place> places;
    for (const int r : chosen) places.push_back(places_[r]);
    const WatchedWait watched(watchdog(), "split", this->name(), -1);
    const std::lock_guard lock(mpi_engine_->mutex());
    MPI_Comm comm = MPI_COMM_NULL;
    RETURN_IF_ERROR(ToStatus(MPI_Comm_split(comm_, color, key, &comm), "MPI_Comm_split"));
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    ASSIGN_OR_RETURN(std::unique_ptr<NodeWindow> window, WindowOf(comm, places));
    auto child = std::make_unique<MpiCommunicator>(std::move(name), comm, std::move(places), std::move(window), mpi_engine_);
    child->Set(ledger(), watchdog());
    return child;
  }

 protected:
  std::unique_ptr<MessageSet> NewMessageSet() override {
    return std::make_unique<MpiMessages>(comm_, rank(), &places_, window_.get(), mpi_engine_.get());
  }
  bool MessagesKeepOrder() const override { return window_ != nullptr; }
  void ReserveStreams(int streams) override {
    if (window_ != nullptr) window_->Expect(streams);
  }
  DirectSums* DirectSumsOf(int stream, int64_t bytes) override {
    return window_ != nullptr && bytes > kLongestSumInLane ? window_->direct_sums(stream) : nullptr;
  }

 private:
  static int RankOf(MPI_Comm comm) {
    int rank = 0;
    MPI_Comm_rank(comm, &rank);
    return rank;
  }

  MPI_Comm comm_;
  std::shared_ptr<MpiEngine> mpi_engine_;
  std::vector<Place> places_;
  std::unique_ptr<NodeWindow> window_;  // null: all messages go by MPI
};

// Ranks are on one node if they can share memory and have the same host name (emulated hosts of one machine differ in name only).
absl::StatusOr<std::vector<Place>> FindPlaces(MPI_Comm comm) {
  struct Site {
    int leader = 0;  // lowest rank that shares memory
    char host[kHostBytes] = {};
    bool operator==(const Site& other) const { return leader == other.leader && std::strcmp(host, other.host) == 0; }
  };
  int rank = 0, size = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  MPI_Comm node = MPI_COMM_NULL;
  RETURN_IF_ERROR(ToStatus(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node), "MPI_Comm_split_type"));
  Site mine;
  RETURN_IF_ERROR(ToStatus(MPI_Allreduce(&rank, &mine.leader, 1, MPI_INT, MPI_MIN, node), "MPI_Allreduce"));
  MPI_Comm_free(&node);
  gethostname(mine.host, kHostBytes - 1);
  std::vector<Site> sites(size);
  constexpr int kBytes = static_cast<int>(sizeof(Site));
  RETURN_IF_ERROR(ToStatus(MPI_Allgather(&mine, kBytes, MPI_BYTE, sites.data(), kBytes, MPI_BYTE, comm), "MPI_Allgather"));
  std::vector<Place> places(size);
  std::vector<Site> known;
  for (int r = 0; r < size; ++r) {
    auto it = std::find(known.begin(), known.end(), sites[r]);
    if (it == known.end()) it = known.insert(known.end(), sites[r]);
    places[r] = {.global_rank = r, .node = static_cast<int>(it - known.begin())};
  }
  return places;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Start(int* argc, char*** argv) {
  auto session = std::unique_ptr<MpiSession>(new MpiSession);
  int initialised = 0, provided = 0;
  MPI_Initialized(&initialised);
  if (initialised == 0) {
    RETURN_IF_ERROR(ToStatus(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread"));
    session->initialised_here_ = true;
  } else {
    MPI_Query_thread(&provided);
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    return Unavailable("MPI grants thread level %d, expected MPI_THREAD_SERIALIZED (%d) at least", provided, MPI_THREAD_SERIALIZED);
  }
  MPI_Comm comm = MPI_COMM_NULL;
  RETURN_IF_ERROR(ToStatus(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup"));
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  int* tag_limit = nullptr;
  int found = 0;
  MPI_Comm_get_attr(comm, MPI_TAG_UB, static_cast<void*>(&tag_limit), &found);
  if (found == 0 || *tag_limit < 2 * kCollectiveTags - 1)
    return Unavailable("MPI allows tags up to %d, needed: %d", found == 0 ? 0 : *tag_limit, 2 * kCollectiveTags - 1);
  ASSIGN_OR_RETURN(std::vector<Place> places, FindPlaces(comm));
  ASSIGN_OR_RETURN(std::unique_ptr<NodeWindow> window, WindowOf(comm, places));
  session->world_ = std::make_unique<MpiCommunicator>("world", comm, std::move(places), std::move(window), std::make_shared<MpiEngine>());
  return session;
}

MpiSession::~MpiSession() {
  if (world_ != nullptr) static_cast<MpiCommunicator&>(*world_).StopThread();
  world_.reset();
  if (initialised_here_) MPI_Finalize();
}

void MpiSession::Attach(Ledger* ledger, Watchdog* watchdog) { static_cast<MpiCommunicator&>(*world_).Set(ledger, watchdog); }

void MpiSession::Abort(int exit_code) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::string MpiLibraryVersion() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0, major = 0, minor = 0;
  MPI_Get_library_version(text, &length);
  MPI_Get_version(&major, &minor);
  const std::string first(text, std::string_view(text, length).find_first_of(",\n"));
  return absl::StrFormat("%d.%d, %s", major, minor, first);
}

}  // namespace conclave
