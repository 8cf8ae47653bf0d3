// SPDX-License-Identifier: Apache-2.0
// Purpose: where one path lies in relation to another, links followed. Non-goals: reading and writing.
#pragma once

#include <filesystem>
#include <optional>

namespace fedspallm {

/// Whether `path` is `folder` or lies below it; neither need exist. Nothing where links lead in a circle.
[[nodiscard]] std::optional<bool> is_inside(const std::filesystem::path& path,
                                            const std::filesystem::path& folder);

}  // namespace fedspallm
