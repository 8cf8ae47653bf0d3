// SPDX-License-Identifier: Apache-2.0
// Purpose: tells a person how far pruning is: block, error, sparsity, rates, time left. On a terminal one
// line that is drawn again and again; else one line per block for the log, with the same facts. Non-goal: the
// log itself.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace fedspallm::report {

/// A block that is merged and written.
struct BlockDone {
  std::int64_t block = 0;          // counted over all rounds, from 0
  double error = 0;                // of pruning, as the method measures it; not finite = unknown
  double sparsity = 0;             // of the merged block
  std::int64_t client_blocks = 0;  // clients that pruned it; 0 = not told
  std::int64_t weights = 0;        // weights pruned by all of them; 0 = not told
};

class Progress {
 public:
  using Clock = std::function<double()>;                 // seconds, never backwards
  using Output = std::function<void(std::string_view)>;  // takes raw characters for the terminal

  /// The first block's time counts from here.
  /// @param blocks  of all rounds. @pre >= 1
  /// @param clock, output  empty = the steady clock, standard error
  Progress(std::int64_t blocks, bool to_terminal, Clock clock = {}, Output output = {}, int columns = 0);
  /// Ends a drawn line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// An earlier process did so many of the blocks. @pre 0 <= done <= blocks
  void skip(std::int64_t done);
  /// Draws on a terminal and returns ""; else returns the line for the log. After the last block the drawn
  /// line stays. May be called by several threads.
  std::string block_done(const BlockDone& done);
  /// Removes the drawn line, so that something else can be printed; the next block draws it again.
  void clear();

 private:
  [[nodiscard]] std::string facts(const BlockDone& done, double seconds) const;
  /// From the median time of the last blocks. @pre one is done
  [[nodiscard]] double seconds_left() const;
  void draw(const std::string& facts, std::int64_t block);
  void emit(std::string_view text) const;

  std::int64_t blocks_;
  bool to_terminal_;
  Clock clock_;
  Output output_;
  int columns_;
  mutable std::mutex mutex_;
  double last_;
  std::int64_t left_;
  bool drawn_ = false;
  std::deque<double> recent_;  // seconds of the last blocks
};

}  // namespace fedspallm::report
