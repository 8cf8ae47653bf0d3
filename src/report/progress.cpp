// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/progress.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/report/format.hpp"
#include "fedspallm/report/system.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

namespace fedspallm::report {

namespace {

constexpr std::size_t kRecentBlocks = 7;  // odd, few enough to follow a change, enough to forget a hiccup
constexpr std::int64_t kBarColumns = 20;
constexpr const char* kEraseLine = "\r\x1b[K";

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::string bar(std::int64_t done, std::int64_t of) {
  const auto filled =
      static_cast<std::size_t>(std::clamp<std::int64_t>(done * kBarColumns / of, 0, kBarColumns));
  return "[" + std::string(filled, '#') + std::string(static_cast<std::size_t>(kBarColumns) - filled, '.') +
         "]";
}

}  // namespace

Progress::Progress(std::int64_t blocks, bool to_terminal, Clock clock, Output output, int columns)
    : blocks_(blocks),
      to_terminal_(to_terminal),
      clock_(clock ? std::move(clock) : Clock(steady_seconds)),
      output_(std::move(output)),
      columns_(columns > 0 ? columns : terminal_columns()),
      last_(clock_()),
      left_(blocks) {
  require(blocks >= 1, "blocks >= 1");
}

Progress::~Progress() {
  if (!drawn_) return;
  try {
    emit("\n");
  } catch (...) {  // an output that fails at the very end is not worth a crash
  }
}

void Progress::emit(std::string_view text) const {
  if (output_) {
    output_(text);
    return;
  }
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void Progress::skip(std::int64_t done) {
  require(done >= 0 && done <= blocks_, "Progress::skip: 0 <= done <= blocks");
  const std::lock_guard lock(mutex_);
  left_ = blocks_ - done;
  last_ = clock_();
}

std::string Progress::block_done(const BlockDone& done) {
  const std::lock_guard lock(mutex_);
  const double now = clock_();
  const double seconds = std::max(0.0, now - last_);
  last_ = now;
  left_ = std::max<std::int64_t>(0, left_ - 1);
  recent_.push_back(seconds);
  if (recent_.size() > kRecentBlocks) recent_.pop_front();
  const std::string text = facts(done, seconds);
  if (!to_terminal_) return text;
  draw(text, done.block + 1);
  return {};
}

void Progress::clear() {
  const std::lock_guard lock(mutex_);
  if (!drawn_) return;
  drawn_ = false;
  emit(kEraseLine);
}

double Progress::seconds_left() const {
  return median_of({recent_.begin(), recent_.end()}) * static_cast<double>(left_);
}

std::string Progress::facts(const BlockDone& done, double seconds) const {
  // What a narrow terminal must show comes first.
  std::string text = fmt::format("block {}/{}", done.block + 1, blocks_);
  text += left_ > 0 ? "  left " + duration_text(seconds_left()) : std::string("  done");
  text += fmt::format("  {}/block", duration_text(seconds));
  if (seconds > 0 && done.client_blocks > 0)
    text += fmt::format("  {:.2f} clients/s", static_cast<double>(done.client_blocks) / seconds);
  if (seconds > 0 && done.weights > 0)
    text += fmt::format("  {:.1f} M weights/s", static_cast<double>(done.weights) / seconds / 1e6);
  if (std::isfinite(done.error)) text += fmt::format("  error {:.4g}", done.error);
  return text + fmt::format("  sparsity {:.4f}", done.sparsity);
}

void Progress::draw(const std::string& facts, std::int64_t block) {
  // One column stays free: a full last column makes some terminals wrap.
  const std::string line = bar(block, blocks_) + " " + facts;
  const auto columns = static_cast<std::size_t>(std::max(1, columns_ - 1));
  emit(kEraseLine + std::string(clipped(line, columns)) + (left_ == 0 ? "\n" : ""));
  drawn_ = left_ > 0;
}

}  // namespace fedspallm::report
