// SPDX-License-Identifier: Apache-2.0
// Purpose: reads one TOML value as a C++ type within a range, or says what was found and what was expected;
// writes values as TOML. Non-goal: which key has which type (keys.hpp).
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::config {

/// What a reader looks at.
struct Value {
  const toml::node& node;
  const std::string& word;              // text of a --set, taken where a string is expected; else ""
  const std::filesystem::path& folder;  // relative paths start here
};

/// "found X, expected Y", or "" when all is well. The destination is only written when all is well.
using Mismatch = std::string;

/// A range of numbers for messages and checks alike.
struct RealRange {
  double low;
  double high;
  bool open_low = false;  // low itself is excluded
};

[[nodiscard]] Mismatch read_boolean(const Value& value, bool& out);
/// @pre low <= high
[[nodiscard]] Mismatch read_integer(const Value& value, std::int64_t low, std::int64_t high,
                                    std::int64_t& out);
/// A list of such integers, ascending, each once; it may be empty.
[[nodiscard]] Mismatch read_integers(const Value& value, std::int64_t low, std::int64_t high,
                                     std::vector<std::int64_t>& out);
/// Integers count as numbers; NaN and infinities are outside of every range.
[[nodiscard]] Mismatch read_real(const Value& value, const RealRange& range, double& out);
[[nodiscard]] Mismatch read_string(const Value& value, const std::string& expected, std::string& out);
/// Not empty, no control characters, no "~"; made absolute and normal, without a slash at the end.
[[nodiscard]] Mismatch read_path(const Value& value, std::filesystem::path& out);
/// One path or a list of at least one.
[[nodiscard]] Mismatch read_paths(const Value& value, std::vector<std::filesystem::path>& out);
/// One of `names`; `index` is its place.
[[nodiscard]] Mismatch read_choice(const Value& value, const std::vector<std::string>& names,
                                   std::size_t& index);
/// A name that can be part of a file name: no slash, not empty, ".", ".." or longer than 100 bytes, no
/// control characters.
[[nodiscard]] Mismatch read_name(const Value& value, std::string& out);

/// A value as a message shows it: "text" (shortened), 1.5, true, a list, a table, a date.
[[nodiscard]] std::string describe(const toml::node& node);

/// A TOML basic string.
[[nodiscard]] std::string toml_string(std::string_view text);
/// The shortest TOML float that reads back to the same bits. @pre finite
[[nodiscard]] std::string float_text(double value);

}  // namespace fedspallm::config
