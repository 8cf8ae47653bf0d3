// SPDX-License-Identifier: Apache-2.0
#include "threads.hpp"

#include <utility>

namespace fedspallm::comm {

void Desk::post(Command command) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  filled_.notify_one();
}

bool Desk::run_one() {
  Command command;
  {
    const std::lock_guard lock(mutex_);
    if (commands_.empty()) return false;
    command = std::move(commands_.front());
    commands_.pop_front();
  }
  command();
  return true;
}

void Desk::wait(std::chrono::microseconds limit) {
  std::unique_lock lock(mutex_);
  filled_.wait_for(lock, limit, [&] { return !commands_.empty(); });
}

Worker::Worker(std::function<void()> on_error) : on_error_(std::move(on_error)), thread_([this] { run(); }) {}

Worker::~Worker() {
  const std::lock_guard lock(mutex_);
  ending_ = true;
  changed_.notify_one();
}

void Worker::post(Task task) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_one();
}

void Worker::run() {
  for (;;) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    try {
      task();
    } catch (...) {
      on_error_();
    }
  }
}

void Gate::throw_failure() const {
  if (failure_) throw Error(failure_->status, failure_->text);
}

void Gate::wait_locked(std::unique_lock<std::mutex>& lock, const std::function<bool()>& ready) {
  if (closed_ || ready()) return;
  const auto start = std::chrono::steady_clock::now();
  changed_.wait(lock, [&] { return closed_ || ready(); });
  waited_ += std::chrono::steady_clock::now() - start;
}

bool Gate::near_durable(std::size_t block) const {
  constexpr std::size_t kFurther = 2;  // as exchange.hpp says
  return block <= durable_ + window_blocks_ + kFurther;
}

Boundary Gate::begin(std::uint32_t boundary, std::size_t block) {
  std::unique_lock lock(mutex_);
  std::optional<Boundary> answer;
  wait_locked(lock, [&] {
    answer = boundaries_.begin(boundary, near_durable(block));
    return answer.has_value();
  });
  throw_failure();
  check<LogicError>(answer.has_value(), "a block was begun after the exchange had finished");
  return *answer;
}

void Gate::enter(std::size_t block, std::size_t updates) {
  std::unique_lock lock(mutex_);
  wait_locked(lock, [&] {
    return near_durable(block) && (in_flight_.contains(block) || in_flight_.size() < window_blocks_);
  });
  throw_failure();
  check<LogicError>(!closed_, "an update was submitted after the exchange had finished");
  in_flight_[block] += static_cast<std::int64_t>(updates);
}

void Gate::taken(std::size_t block, std::size_t updates) {
  const std::lock_guard lock(mutex_);
  const auto found = in_flight_.find(block);
  if (found == in_flight_.end() || (found->second -= static_cast<std::int64_t>(updates)) > 0) return;
  in_flight_.erase(found);
  changed_.notify_all();
}

void Gate::wait(const std::function<bool()>& ready) {
  std::unique_lock lock(mutex_);
  wait_locked(lock, ready);
  throw_failure();
  check<LogicError>(ready(), "an exchange finished while a thread still waited for it");
}

void Gate::change(const std::function<void()>& action) {
  const std::lock_guard lock(mutex_);
  action();
  changed_.notify_all();
}

void Gate::set_durable(std::size_t block) {
  change([&] { durable_ = block; });
}

void Gate::close(const std::optional<Failure>& failure) {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  failure_ = failure;
  changed_.notify_all();
}

void Gate::wait_closed() {
  wait_closed_quietly();
  const std::lock_guard lock(mutex_);
  throw_failure();
}

void Gate::wait_closed_quietly() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_; });
}

double Gate::seconds_waited() const {
  const std::lock_guard lock(mutex_);
  return std::chrono::duration<double>(waited_).count();
}

void Gauge::add(std::int64_t amount) {
  const std::int64_t now = value_.fetch_add(amount) + amount;
  std::int64_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

}  // namespace fedspallm::comm
