// SPDX-License-Identifier: Apache-2.0
// What a header must say, whichever way the update came.
#include "fedspallm/base/error.hpp"

#include "header.hpp"
#include <cmath>

namespace fedspallm::wire {

namespace {

std::string name_of(const UnitId& unit) {
  return fmt::format("round {}, block {}, matrix {}", unit.round, unit.block, unit.matrix);
}

/// A check with the name of the update in front of its message.
template <class... Args>
void check_named(const std::string& who, bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition)
    throw DataError(fmt::format("{}: {}", who, fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace

Header header_of(const MatrixUpdate& update) {
  Header header;
  header.unit = update.unit;
  header.client = update.client;
  header.rows = update.matrix.rows;
  header.cols = update.matrix.cols;
  header.kept = update.matrix.kept;
  header.dtype = static_cast<std::uint8_t>(update.matrix.dtype);
  header.has_diagonal = update.hessian_diagonal.empty() ? 0 : 1;
  header.report = update.report;
  return header;
}

std::string expected_name(const Expected& expected) {
  return expected.client ? fmt::format("update of client {} for {}", *expected.client, name_of(expected.unit))
                         : fmt::format("update for {}", name_of(expected.unit));
}

void check_header(const Header& header, const Expected& expected, std::string& who) {
  check_named(who, !expected.client || header.client == *expected.client,
              "it is from client {}, expected client {}", header.client, expected.client.value_or(0));
  check_named(who, header.unit == expected.unit, "client {} sent {}, expected {}", header.client,
              name_of(header.unit), name_of(expected.unit));
  who = fmt::format("update of client {} for {}", header.client, name_of(header.unit));
  check_named(who, header.rows == expected.rows && header.cols == expected.cols,
              "shape {} x {}, expected {} x {}", header.rows, header.cols, expected.rows, expected.cols);
  check_named(who, header.dtype == static_cast<std::uint8_t>(expected.dtype),
              "element type {}, expected {} ({})", header.dtype, static_cast<int>(expected.dtype),
              fedspallm::name_of(expected.dtype));
  check_named(who, header.has_diagonal == (expected.with_diagonal ? 1 : 0), "diagonal flag {}, expected {}",
              header.has_diagonal, expected.with_diagonal ? 1 : 0);
  const std::int64_t size = expected.rows * expected.cols;
  check_named(who, header.kept >= 0 && header.kept <= size, "{} kept weights, expected 0 to {}", header.kept,
              size);
  const MatrixReport& report = header.report;
  check_named(who, report.kept_zeros >= 0 && report.kept_zeros <= header.kept,
              "{} kept zeros, expected 0 to {}", report.kept_zeros, header.kept);
  check_named(who,
              report.damping_steps >= 0 && report.dead_columns >= 0 && report.dead_columns <= header.cols,
              "{} damping steps and {} dead columns, expected none below 0 and at most {} columns",
              report.damping_steps, report.dead_columns, header.cols);
  check_named(who,
              std::isfinite(report.error) && std::isfinite(report.seconds) && std::isfinite(report.damping),
              "report with error {}, seconds {}, damping {}, expected finite numbers", report.error,
              report.seconds, report.damping);
}

}  // namespace fedspallm::wire
