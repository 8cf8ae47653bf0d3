// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <new>
#include <vector>

namespace fedspallm {

namespace {

std::string short_origin(const std::source_location& location) {
  std::string_view file = location.file_name();
  if (const auto slash = file.rfind('/'); slash != std::string_view::npos) file.remove_prefix(slash + 1);
  return fmt::format("{}:{}", file, location.line());
}

/// The edit distance, or, where that is not below `bound`, any number that is not either: no cell of a row is
/// smaller than the smallest of the row before.
std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t bound,
                          std::vector<std::size_t>& row) {
  row.resize(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    std::size_t smallest = row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)});
      smallest = std::min(smallest, row[j]);
      diagonal = above;
    }
    if (smallest >= bound) return bound;
  }
  return row[b.size()];
}

}  // namespace

Error::Error(ExitStatus status, const std::string& message, std::source_location location)
    : std::runtime_error(message), status_(status), origin_(short_origin(location)) {}

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return ResourceError("out of memory; try fewer clients per rank, shorter sequences, or see --dry-run");
  } catch (const std::filesystem::filesystem_error& error) {
    return ResourceError(fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::exception& error) {
    return Error(ExitStatus::check_failed, fmt::format("unexpected: {}", error.what()));
  } catch (...) {
    return Error(ExitStatus::check_failed, "an exception of unknown type");
  }
}

std::string nearest_name(std::string_view word, const std::string* known, std::size_t count) {
  std::string best;
  std::vector<std::size_t> row;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 2) + 1;
  for (std::size_t i = 0; i < count; ++i) {
    // The difference of their lengths is the least that they can be apart; words can be of any length.
    const std::size_t length = known[i].size();
    if (std::max(word.size(), length) - std::min(word.size(), length) >= best_distance) continue;
    const std::size_t distance = edit_distance(word, known[i], best_distance, row);
    if (distance < best_distance) {
      best_distance = distance;
      best = known[i];
    }
  }
  return best;
}

}  // namespace fedspallm
