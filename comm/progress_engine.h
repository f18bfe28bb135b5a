// What a rank has in flight, and who moves it on: the rank's own thread inside its calls, or beside it a thread of the engine.
#ifndef CONCLAVE_COMM_PROGRESS_ENGINE_H_
#define CONCLAVE_COMM_PROGRESS_ENGINE_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace conclave {

// An operation on its way.
class InFlight {
 public:
  virtual void Advance() = 0;  // takes the next step if it can; once done, it has removed itself
  virtual bool done() const = 0;
  virtual bool background() const = 0;  // gives way to those that are not

 protected:
  ~InFlight() = default;
};

// What is in flight on one rank, over all its communicators. Whoever touches the engine, an operation or the transport holds `mutex`: the
// rank's own thread, or the one that StartThread starts.
class ProgressEngine {
 public:
  virtual ~ProgressEngine() = default;
  std::mutex& mutex() { return mutex_; }
  void Progress();
  void Add(InFlight* operation);
  void Remove(InFlight* operation);
  void Reserve(int more) { active_.reserve(reserved_ += static_cast<size_t>(more)); }
  // Waits a little, without the mutex; returns early if something happened since the last Progress began.
  virtual void Pause(int tries) = 0;
  virtual void NoteArrival() {}  // something arrived

  // Whether an operation in the background may send some more now, and how much of it to another node at a time: whatever is on its way
  // already, an operation in front waits for. Transports whose messages do not stand in line send all at once.
  virtual bool MaySendInBackground() { return true; }
  virtual int64_t BackgroundBytes() const { return std::numeric_limits<int64_t>::max(); }

  // Makes progress every 100 us while something is in flight, every 5 ms while all of it is in the background, until StopThread, which
  // whoever inherits must call before the transport ends.
  void StartThread();
  void StopThread();

 protected:
  virtual void BeforeProgress() {}
  int in_front() const { return in_front_; }  // operations in flight that are not in the background

 private:
  void RunThread();

  std::mutex mutex_;
  std::vector<InFlight*> active_;
  size_t reserved_ = 0;
  int in_front_ = 0;
  std::thread thread_;
  std::condition_variable wake_;  // the thread: something is in flight, or stop
  bool stopping_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_PROGRESS_ENGINE_H_
