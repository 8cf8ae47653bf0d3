// SPDX-License-Identifier: Apache-2.0
#include "support/support.hpp"

#include <cstdlib>
#include <stdexcept>
#include <system_error>

namespace fedspallm::test {

std::filesystem::path data_path(const std::string& relative) {
  const char* moved = std::getenv("FEDSPALLM_TEST_DATA");  // for programs that run elsewhere than built
  return std::filesystem::path(moved != nullptr ? moved : FEDSPALLM_TEST_DATA) / relative;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "fedspallm-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace fedspallm::test
