// How a rank waits for messages that another rank of its machine may send any moment.
#ifndef CONCLAVE_COMM_WAIT_PACE_H_
#define CONCLAVE_COMM_WAIT_PACE_H_

#include <algorithm>
#include <cstdint>

namespace conclave {

// A message between running ranks is there within microseconds, and a core that sleeps meanwhile comes back late and with cold caches, so a
// rank stays awake for a while, as long as nobody else takes the core, which it gives away again and again. Where somebody does, or nothing
// comes, it sleeps, longer and longer, so that its waiting costs others next to nothing. Times are nanoseconds of one clock. One thread.
class WaitPace {
 public:
  // A wait begins, or something arrived during it.
  void Restart(int64_t now) {
    since_ = now;
    sleeps_ = 0;
  }
  // Microseconds to sleep before the next look; 0: give the core away once, and say by NoteGiven when that was.
  int Next(int64_t now) {
    if (now - since_ < kAwake && now >= crowded_until_) return 0;
    return std::min(kShortestSleep * (1 + sleeps_++ / kSleepsOfALength), kLongestSleep);
  }
  // The core was given away at `before` and came back at `after`.
  void NoteGiven(int64_t before, int64_t after) {
    if (after - before > kUnused) crowded_until_ = after + kRemembered;
  }

 private:
  static constexpr int kShortestSleep = 10, kSleepsOfALength = 4, kLongestSleep = 200;  // microseconds
  static constexpr int64_t kMicrosecond = 1'000, kMillisecond = 1'000'000;
  static constexpr int64_t kAwake = 5 * kMillisecond;        // without news
  static constexpr int64_t kUnused = 50 * kMicrosecond;      // a core that nobody wanted is back before
  static constexpr int64_t kRemembered = 20 * kMillisecond;  // that somebody did: a few of the scheduler's slices

  int64_t since_ = 0;
  int sleeps_ = 0;
  int64_t crowded_until_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_WAIT_PACE_H_
