// SPDX-License-Identifier: Apache-2.0
#include "prefetch.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::backend::cuda {

Prefetcher::~Prefetcher() {
  thread_ = {};  // asks it to stop, and waits
  if (memory_ == nullptr) return;
  for (const auto& [source, entry] : entries_) memory_->release(entry->memory);
}

void Prefetcher::start() {
  if (memory_ != nullptr) return;
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  stream_ = make_stream();
  memory_ = std::make_unique<DeviceMemory>(device_, stream_.get());
  staging_ = std::make_unique<Staging>(stream_.get());
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

void Prefetcher::ask(std::span<const std::span<const std::byte>> sources,
                     const std::function<void()>& quiet) {
  start();
  std::vector<std::shared_ptr<Entry>> leaving;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [&](const auto& one) {
      if (!std::exchange(one.second->newest, false)) leaving.push_back(one.second);
      return !leaving.empty() && leaving.back() == one.second;
    });
    std::erase_if(queue_, [&](const auto& one) {
      return std::find(leaving.begin(), leaving.end(), one) != leaving.end();
    });
    for (const std::span<const std::byte> source : sources) {
      if (source.empty()) continue;
      auto& entry = entries_[source.data()];
      if (entry != nullptr && entry->source.size() == source.size()) {
        entry->newest = true;
        continue;
      }
      if (entry != nullptr) leaving.push_back(entry);
      entry = std::make_shared<Entry>(Entry{.source = source});
      queue_.push_back(entry);
    }
  }
  changed_.notify_all();
  if (leaving.empty()) return;
  quiet();
  std::unique_lock lock(mutex_);
  for (const auto& entry : leaving) memory_->release(std::exchange(entry->memory, nullptr));
}

const std::byte* Prefetcher::find(std::span<const std::byte> source) {
  std::unique_lock lock(mutex_);
  const auto found = entries_.find(source.data());
  if (found == entries_.end() || found->second->source.size() != source.size()) return nullptr;
  const std::shared_ptr<Entry> entry = found->second;
  changed_.wait(lock, [&] { return entry->state != State::wanted; });
  return static_cast<const std::byte*>(entry->memory);
}

void Prefetcher::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [this] { return !queue_.empty(); })) {
    const std::shared_ptr<Entry> entry = queue_.front();
    queue_.pop_front();
    lock.unlock();
    bring(*entry);
    lock.lock();
    changed_.notify_all();
  }
}

/// On the thread. An entry that was forgotten meanwhile gives its memory back here.
void Prefetcher::bring(Entry& entry) {
  void* memory = nullptr;
  State state = State::failed;
  try {
    check_cuda(cudaSetDevice(device_), "cudaSetDevice");
    memory = memory_->allocate(entry.source.size());
    staging_->upload(entry.source.data(), entry.source.size(), memory);
    check_cuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
    state = State::here;
  } catch (const std::exception&) {  // it will be copied when it is wanted, and what is wrong shows there
    if (memory_ != nullptr) memory_->release(std::exchange(memory, nullptr));
  }
  const std::lock_guard lock(mutex_);
  const auto known = entries_.find(entry.source.data());
  const bool forgotten = known == entries_.end() || known->second.get() != &entry;
  entry.state = state;
  if (forgotten) {
    memory_->release(memory);
  } else {
    entry.memory = memory;
  }
}

std::int64_t Prefetcher::allocated_bytes() const {
  return memory_ == nullptr ? 0 : memory_->allocated_bytes();
}
std::int64_t Prefetcher::peak_bytes() const {
  return memory_ == nullptr ? 0 : memory_->peak_bytes();
}

}  // namespace fedspallm::backend::cuda
