// SPDX-License-Identifier: Apache-2.0
#include "background.hpp"

#include <utility>

namespace fedspallm::app {

Background::Background(std::size_t capacity) : capacity_(capacity), thread_([this] { loop(); }) {}

Background::~Background() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

void Background::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const auto task = std::move(tasks_.front());
    tasks_.pop_front();
    running_ = true;
    const bool skip = failure_ != nullptr;  // after an error nothing more is written
    lock.unlock();
    std::exception_ptr failure;
    try {
      if (!skip) task();
    } catch (...) {  // handed to the thread that posts
      failure = std::current_exception();
    }
    lock.lock();
    running_ = false;
    if (failure && !failure_) failure_ = failure;
    changed_.notify_all();
  }
}

void Background::rethrow() {
  if (failure_) std::rethrow_exception(failure_);
}

void Background::post(std::function<void()> task) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return tasks_.size() < capacity_ || failure_; });
  rethrow();
  tasks_.push_back(std::move(task));
  changed_.notify_all();
}

void Background::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return tasks_.empty() && !running_; });
  rethrow();
}

}  // namespace fedspallm::app
