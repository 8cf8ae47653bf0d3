// SPDX-License-Identifier: Apache-2.0
// Purpose: strict JSON for every JSON file that the program reads: no duplicate keys, no deep nesting
// (nlohmann walks a document by recursion when it is shown), errors that name the file. Non-goal: what the
// keys mean.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <string_view>

namespace fedspallm::model {

/// Objects and lists may lie this deep in each other.
constexpr int kDeepestJson = 100;

/// @throws ModelError: file, what is wrong and where (line and column, or the key that occurs twice).
[[nodiscard]] nlohmann::json parse_json(std::string_view text, const std::string& file);
/// The content of a small text file. @throws ModelError naming it when it is missing, unreadable or above 100
/// MB.
[[nodiscard]] std::string read_text_file(const std::filesystem::path& path);
/// A short rendering of a value for "found ..." in messages.
[[nodiscard]] std::string show(const nlohmann::json& value);

}  // namespace fedspallm::model
