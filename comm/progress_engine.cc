#include "comm/progress_engine.h"

#include <unistd.h>

#include <algorithm>

#include "base/check.h"

namespace conclave {
namespace {

// Someone may be waiting for what is in front. Behind it the transport's own memory bridges more than the longer pause, and every time this
// thread wakes the other loses some of its own.
constexpr unsigned kProgressMicroseconds = 100, kBackgroundMicroseconds = 5000;

}  // namespace

void ProgressEngine::Progress() {
  BeforeProgress();
  // An operation that completes removes itself: its place is taken by another, which is looked at next.
  for (size_t i = 0; i < active_.size();) {
    InFlight* const operation = active_[i];
    operation->Advance();
    if (!operation->done()) ++i;
  }
}

void ProgressEngine::Add(InFlight* operation) {
  active_.push_back(operation);
  in_front_ += operation->background() ? 0 : 1;
  if (active_.size() == 1) wake_.notify_one();
}

void ProgressEngine::StartThread() {
  if (!thread_.joinable()) thread_ = std::thread([this] { RunThread(); });
}

void ProgressEngine::StopThread() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void ProgressEngine::RunThread() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_.wait(lock, [&] { return stopping_ || !active_.empty(); });
    Progress();
    const unsigned pause = in_front_ > 0 ? kProgressMicroseconds : kBackgroundMicroseconds;
    lock.unlock();
    usleep(pause);
    lock.lock();
  }
}

void ProgressEngine::Remove(InFlight* operation) {
  in_front_ -= operation->background() ? 0 : 1;
  const auto it = std::find(active_.begin(), active_.end(), operation);
  CHECK(it != active_.end());
  *it = active_.back();
  active_.pop_back();
}

}  // namespace conclave
