// SPDX-License-Identifier: Apache-2.0
// Purpose: one thread that runs posted tasks in order, so that files are written off the critical path. The
// queue is bounded: post() waits when it is full. A task's exception is rethrown by the next post() or by
// finish().
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace fedspallm::app {

class Background {
 public:
  explicit Background(std::size_t capacity);
  /// Runs what is queued to its end; errors are then lost, so call finish() first.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  void post(std::function<void()> task);
  /// Waits until the queue is empty. @throws the first task's error
  void finish();

 private:
  void loop();
  void rethrow();  // with the lock held

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::size_t capacity_;
  bool running_ = false;  // a task is being run
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::jthread thread_;
};

}  // namespace fedspallm::app
