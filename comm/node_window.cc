#include "comm/node_window.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <random>

namespace conclave {
namespace {

constexpr int64_t kBytesOfMember = int64_t{1} << 20;  // rings in a lane that one member writes to
constexpr int64_t kLongestRing = int64_t{256} << 10, kShortestRing = int64_t{16} << 10;

absl::Status OfMpi(int code, const char* call) {
  return code == MPI_SUCCESS ? absl::OkStatus() : Unavailable("%s failed with code %d while a window was opened", call, code);
}

// What the first member tells the others. The memory has no name in a file system: it goes when the last process that sees it does,
// however it ends.
struct WindowKey {
  int64_t process = 0, descriptor = -1;  // descriptor -1: there is no memory
  uint64_t mark = 0;                     // stands at the end of the memory: another process of this number would not have it
};

int64_t RingBytes(int members) {
  const int64_t bytes = std::min(kBytesOfMember / std::max(members - 1, 1), kLongestRing) / kRingLine * kRingLine;
  return members > 1 && bytes >= kShortestRing ? bytes : 0;
}

// The lanes, what direct sums share, and the mark on a line.
int64_t LaneBytes(int members) { return RingLane::Bytes(members, RingBytes(members)); }
int64_t WindowBytes(int members) { return kStreams * (LaneBytes(members) + DirectSums::Bytes(members)) + kRingLine; }
std::byte* LaneAt(std::byte* window, int members, int stream) { return window + stream * LaneBytes(members); }
std::byte* SumsAt(std::byte* window, int members, int stream) {
  return window + kStreams * LaneBytes(members) + stream * DirectSums::Bytes(members);
}

std::byte* MapWindow(int descriptor, int64_t bytes) {
  void* const memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

// The first member's part: makes the memory and what stands in it. Null where the system refuses.
std::byte* MakeWindow(int members, int64_t bytes, WindowKey* key) {
  const int descriptor = memfd_create("conclave", MFD_CLOEXEC);
  if (descriptor < 0) return nullptr;
  std::byte* const memory = ftruncate(descriptor, bytes) == 0 ? MapWindow(descriptor, bytes) : nullptr;
  if (memory == nullptr) {
    close(descriptor);
    return nullptr;
  }
  std::random_device random;
  *key = {.process = getpid(), .descriptor = descriptor, .mark = (uint64_t{random()} << 32) | random()};
  for (int stream = 0; stream < kStreams; ++stream) {
    RingLane::Prepare(LaneAt(memory, members, stream), members);
    DirectSums::Prepare(SumsAt(memory, members, stream), members);
  }
  std::memcpy(memory + bytes - kRingLine, &key->mark, sizeof(key->mark));
  return memory;
}

// The others' part.
std::byte* FindWindow(const WindowKey& key, int64_t bytes) {
  if (key.descriptor < 0) return nullptr;
  const int descriptor = open(absl::StrFormat("/proc/%d/fd/%d", key.process, key.descriptor).c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return nullptr;
  struct stat about {};
  std::byte* const memory = fstat(descriptor, &about) == 0 && about.st_size == bytes ? MapWindow(descriptor, bytes) : nullptr;
  close(descriptor);
  if (memory == nullptr || std::memcmp(memory + bytes - kRingLine, &key.mark, sizeof(key.mark)) == 0) return memory;
  munmap(memory, static_cast<size_t>(bytes));
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NodeWindow>> NodeWindow::Open(MPI_Comm comm) {
  int rank = 0, members = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &members);
  if (RingBytes(members) == 0) return std::unique_ptr<NodeWindow>();
  const int64_t bytes = WindowBytes(members);
  WindowKey key;
  std::byte* memory = rank == 0 ? MakeWindow(members, bytes, &key) : nullptr;
  RETURN_IF_ERROR(OfMpi(MPI_Bcast(&key, sizeof(key), MPI_BYTE, 0, comm), "MPI_Bcast"));
  if (rank > 0) memory = FindWindow(key, bytes);
  int seen = memory != nullptr ? 1 : 0;
  const absl::Status agreed = OfMpi(MPI_Allreduce(MPI_IN_PLACE, &seen, 1, MPI_INT, MPI_MIN, comm), "MPI_Allreduce");
  if (rank == 0 && key.descriptor >= 0) close(static_cast<int>(key.descriptor));
  auto window = memory == nullptr ? nullptr : std::unique_ptr<NodeWindow>(new NodeWindow(memory, members));
  RETURN_IF_ERROR(agreed);
  if (seen == 0) return std::unique_ptr<NodeWindow>();
  for (int stream = 0; stream < kStreams; ++stream) {
    window->lanes_[stream] = std::make_unique<RingLane>(LaneAt(memory, members, stream), rank, members, RingBytes(members));
    window->direct_sums_[stream] = std::make_unique<DirectSums>(SumsAt(memory, members, stream), rank, members);
  }
  RETURN_IF_ERROR(OfMpi(MPI_Barrier(comm), "MPI_Barrier"));
  int reads = window->direct_sums_[0]->CanRead() ? 1 : 0;
  RETURN_IF_ERROR(OfMpi(MPI_Allreduce(MPI_IN_PLACE, &reads, 1, MPI_INT, MPI_MIN, comm), "MPI_Allreduce"));
  if (reads == 0) window->direct_sums_ = {};
  return window;
}

NodeWindow::NodeWindow(std::byte* memory, int members)
    : memory_(memory), bytes_(WindowBytes(members)), bytes_of_lane_((members - 1) * RingBytes(members)) {}

NodeWindow::~NodeWindow() { munmap(memory_, static_cast<size_t>(bytes_)); }

}  // namespace conclave
