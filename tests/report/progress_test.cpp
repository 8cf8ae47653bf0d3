// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/progress.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

namespace fedspallm::report {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

/// A Progress whose clock the test moves and whose output it keeps.
struct Watched {
  double now = 100;
  std::string shown;
  std::unique_ptr<Progress> progress;

  Watched(std::int64_t blocks, bool to_terminal, int columns = 200)
      : progress(std::make_unique<Progress>(
            blocks, to_terminal, [this] { return now; }, [this](std::string_view text) { shown += text; },
            columns)) {}
  std::string after(double seconds, BlockDone done) {
    now += seconds;
    return progress->block_done(done);
  }
};

TEST(Progress, InALogGivesOneLinePerBlockWithAllFacts) {
  Watched watched(30, false);
  EXPECT_EQ(
      watched.after(
          2, {.block = 0, .error = 0.012345678, .sparsity = 0.5, .client_blocks = 4, .weights = 14000000}),
      "block 1/30  left 58 s  2.0 s/block  2.00 clients/s  7.0 M weights/s  error 0.01235  sparsity "
      "0.5000");
  EXPECT_EQ(watched.shown, "") << "the log prints it";
}

TEST(Progress, LeavesOutWhatIsNotKnown) {
  Watched watched(2, false);
  EXPECT_EQ(watched.after(1, {.block = 0, .error = std::nan(""), .sparsity = 0.25}),
            "block 1/2  left 1.0 s  1.0 s/block  sparsity 0.2500");
  const std::string instant =
      watched.after(0, {.block = 1, .error = 0, .sparsity = 0.25, .client_blocks = 4, .weights = 9});
  EXPECT_EQ(instant, "block 2/2  done  0.0 s/block  error 0  sparsity 0.2500");
}

TEST(Progress, TimeLeftIsTheMedianOfTheLastBlocksTimesTheBlocksLeft) {
  Watched watched(20, false);
  EXPECT_THAT(watched.after(100, {.block = 0}), HasSubstr("  left 31:40  ")) << "19 * 100 s";
  EXPECT_THAT(watched.after(2, {.block = 1}), HasSubstr("  left 15:18  ")) << "18 * 51 s: of two, their mean";
  EXPECT_THAT(watched.after(2, {.block = 2}), HasSubstr("  left 34 s  "))
      << "17 * 2 s: one slow block does not count";
  std::string text;
  std::int64_t block = 3;
  for (; block < 10; ++block) text = watched.after(8, {.block = block});
  EXPECT_THAT(text, HasSubstr("  left 1:20  ")) << "10 * 8 s: old blocks are forgotten";
  for (; block < 20; ++block) text = watched.after(8, {.block = block});
  EXPECT_THAT(text, HasSubstr("  done  "));
}

TEST(Progress, MoreBlocksThanAnnouncedDoNoHarm) {
  Watched watched(1, false);
  watched.after(1, {.block = 0});
  EXPECT_THAT(watched.after(1, {.block = 1}), StartsWith("block 2/1  done"));
}

TEST(Progress, OnATerminalRedrawsOneLineAndEndsItAfterTheLastBlock) {
  Watched watched(2, true);
  EXPECT_EQ(watched.after(3, {.block = 0, .error = 0.5, .sparsity = 0.5}), "");
  EXPECT_THAT(watched.shown, StartsWith("\r\x1b[K[##########..........] block 1/2  left 3.0 s"));
  EXPECT_THAT(watched.shown, EndsWith("error 0.5  sparsity 0.5000"));
  watched.shown.clear();
  watched.after(3, {.block = 1, .error = 0.5, .sparsity = 0.5});
  EXPECT_THAT(watched.shown, StartsWith("\r\x1b[K[####################] block 2/2  done"));
  EXPECT_THAT(watched.shown, EndsWith("0.5000\n"));
  watched.shown.clear();
  watched.progress.reset();
  EXPECT_EQ(watched.shown, "") << "the line was ended already";
}

TEST(Progress, EightyColumnsShowTimeLeftAndRate) {
  Watched watched(1000, true, 80);
  watched.after(83,
                {.block = 0, .error = 123456, .sparsity = 0.5, .client_blocks = 100, .weights = 123456789});
  EXPECT_THAT(watched.shown, HasSubstr("left "));
  EXPECT_THAT(watched.shown, HasSubstr("1.20 clients/s"));
}

TEST(Progress, NeverDrawsWiderThanTheTerminal) {
  for (const int columns : {1, 2, 10, 40}) {
    Watched watched(2, true, columns);
    watched.after(3, {.block = 0, .error = 0.5, .sparsity = 0.5});
    const std::string erase = "\r\x1b[K";
    ASSERT_THAT(watched.shown, StartsWith(erase));
    EXPECT_EQ(watched.shown.size() - erase.size(), static_cast<std::size_t>(std::max(1, columns - 1)));
    EXPECT_THAT(watched.shown, Not(HasSubstr("\n")));
  }
}

TEST(Progress, ClearsItsLineForOthersAndEndsItWhenItGoes) {
  Watched watched(3, true);
  watched.progress->clear();
  EXPECT_EQ(watched.shown, "") << "nothing is drawn yet";
  watched.after(1, {.block = 0});
  watched.shown.clear();
  watched.progress->clear();
  EXPECT_EQ(watched.shown, "\r\x1b[K");
  watched.progress->clear();
  EXPECT_EQ(watched.shown, "\r\x1b[K") << "once is enough";
  watched.after(1, {.block = 1});
  watched.shown.clear();
  watched.progress.reset();
  EXPECT_EQ(watched.shown, "\n");
}

TEST(Progress, AFailingOutputDoesNotEscapeTheDestructor) {
  bool fail = false;
  int failures = 0;
  {
    Progress progress(
        2, true, [] { return 0.0; },
        [&](std::string_view) {
          if (!fail) return;
          ++failures;
          throw std::runtime_error("gone");
        });
    progress.block_done({.block = 0});
    fail = true;
  }
  EXPECT_EQ(failures, 1) << "the drawn line was to be ended";
}

TEST(Progress, RefusesNoBlocks) {
  EXPECT_THROW(Progress(0, false), LogicError);
}

}  // namespace
}  // namespace fedspallm::report
