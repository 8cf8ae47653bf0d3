// SPDX-License-Identifier: Apache-2.0
// Purpose: an owned file descriptor. Non-goals: opening, reading and writing (their errors are their
// callers').
#pragma once

#include <unistd.h>

#include <utility>

namespace fedspallm {

/// Move-only; closing never throws. Empty when it was made of what a failed open() gives.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }
  void reset() noexcept {
    // Errors that matter were found by fsync before; a file given up on may fail to close without harm.
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

}  // namespace fedspallm
