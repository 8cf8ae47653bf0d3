// SPDX-License-Identifier: Apache-2.0
// Purpose: numbers as people read them, the same in progress, tables and logs. Non-goal: machine-readable
// output, which keeps all digits (metrics, summary.json).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fedspallm::report {

/// "0.4 s", "45 s", "1:23", "2:03:04", "3 d 02:03"; "?" for a negative or non-finite number.
[[nodiscard]] std::string duration_text(double seconds);
/// "17 B", "1.5 KiB", "2.00 GiB": three digits.
[[nodiscard]] std::string bytes_text(std::int64_t bytes);
/// "106,168,320".
[[nodiscard]] std::string count_text(std::int64_t count);
/// "12.34", "1.2e+06"; "-" for NaN (not measured), "inf".
[[nodiscard]] std::string perplexity_text(double value);

/// Columns that UTF-8 text takes on a terminal, one per character.
[[nodiscard]] std::size_t display_width(std::string_view text);
/// The first `columns` characters.
[[nodiscard]] std::string_view clipped(std::string_view text, std::size_t columns);

}  // namespace fedspallm::report
