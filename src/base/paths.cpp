// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/paths.hpp"

#include <algorithm>
#include <system_error>

namespace fedspallm {

std::optional<bool> is_inside(const std::filesystem::path& path, const std::filesystem::path& folder) {
  std::error_code error;
  const auto outer = std::filesystem::weakly_canonical(folder, error);
  if (error) return std::nullopt;
  const auto inner = std::filesystem::weakly_canonical(path, error);
  if (error) return std::nullopt;
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

}  // namespace fedspallm
