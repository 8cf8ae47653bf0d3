// SPDX-License-Identifier: Apache-2.0
// Purpose: a directory that appears whole or not at all: filled as DIR.part, renamed to DIR at the end (an
// existing DIR is exchanged and removed). Non-goal: what is in it.
#pragma once

#include <cstdint>
#include <filesystem>

namespace fedspallm::store {

class DirectorySwap {
 public:
  explicit DirectorySwap(std::filesystem::path directory);
  /// Removes DIR.part where publish() was not reached.
  ~DirectorySwap();
  DirectorySwap(const DirectorySwap&) = delete;
  DirectorySwap& operator=(const DirectorySwap&) = delete;

  /// @throws ConfigError when `input` is DIR, DIR.part or lies inside one of them: it would be lost
  void refuse_to_replace(const std::filesystem::path& input) const;
  /// Makes an empty DIR.part. @throws ResourceError, also when fewer than `needed` bytes are free
  void start(std::int64_t needed);
  [[nodiscard]] const std::filesystem::path& part() const { return part_; }
  /// fsyncs DIR.part (its files must be synced already), puts it in place of DIR, fsyncs the folder above.
  void publish();

 private:
  std::filesystem::path directory_, part_;
  bool started_ = false;
};

}  // namespace fedspallm::store
