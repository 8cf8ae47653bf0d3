// SPDX-License-Identifier: Apache-2.0
// Purpose: what many tests need: paths of golden data, a folder that cleans up after itself.
#pragma once

#include <filesystem>
#include <string>

namespace fedspallm::test {

/// tests/data/RELATIVE of the source tree, or of the environment's FEDSPALLM_TEST_DATA.
[[nodiscard]] std::filesystem::path data_path(const std::string& relative);

/// A fresh temporary folder, removed at the end of its life.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace fedspallm::test
