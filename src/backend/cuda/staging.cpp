// SPDX-License-Identifier: Apache-2.0
#include "staging.hpp"

#include <algorithm>
#include <cstring>

namespace fedspallm::backend::cuda {

Staging::~Staging() {
  for (Buffer& buffer : buffers_)
    if (buffer.busy) static_cast<void>(cudaEventSynchronize(buffer.used.get()));
}

void Staging::wait(Buffer& buffer) {
  if (buffer.busy) check_cuda(cudaEventSynchronize(buffer.used.get()), "cudaEventSynchronize");
  buffer.busy = false;
}

void Staging::mark(Buffer& buffer) {
  check_cuda(cudaEventRecord(buffer.used.get(), stream_), "cudaEventRecord");
  buffer.busy = true;
}

Staging::Buffer& Staging::next() {
  Buffer& buffer = buffers_[turn_];
  turn_ = (turn_ + 1) % buffers_.size();
  if (buffer.memory.get() == nullptr) {
    buffer.memory = make_pinned(chunk_);
    buffer.used = make_event();
  }
  wait(buffer);
  return buffer;
}

void Staging::upload(const void* source, std::size_t bytes, void* device) {
  for (std::size_t done = 0; done < bytes; done += chunk_) {
    const std::size_t part = std::min(chunk_, bytes - done);
    Buffer& buffer = next();
    std::memcpy(buffer.memory.get(), static_cast<const std::byte*>(source) + done, part);
    check_cuda(cudaMemcpyAsync(static_cast<std::byte*>(device) + done, buffer.memory.get(), part,
                               cudaMemcpyHostToDevice, stream_),
               "cudaMemcpyAsync to the device");
    mark(buffer);
  }
}

void Staging::download(const void* device, std::size_t bytes, void* destination) {
  // Chunk i is on the bus while chunk i - 1 is copied out of its buffer.
  Buffer* previous = nullptr;
  std::size_t previous_done = 0, previous_part = 0;
  const auto take = [&] {
    if (previous == nullptr) return;
    wait(*previous);
    std::memcpy(static_cast<std::byte*>(destination) + previous_done, previous->memory.get(), previous_part);
  };
  for (std::size_t done = 0; done < bytes; done += chunk_) {
    const std::size_t part = std::min(chunk_, bytes - done);
    Buffer& buffer = next();
    check_cuda(cudaMemcpyAsync(buffer.memory.get(), static_cast<const std::byte*>(device) + done, part,
                               cudaMemcpyDeviceToHost, stream_),
               "cudaMemcpyAsync to the host");
    mark(buffer);
    take();
    previous = &buffer;
    previous_done = done;
    previous_part = part;
  }
  take();
}

}  // namespace fedspallm::backend::cuda
