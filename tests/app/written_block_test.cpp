// SPDX-License-Identifier: Apache-2.0
// What a writer tells the root of its block.
#include "written_block.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/expect_error.hpp"
#include <cmath>
#include <limits>
#include <string>

namespace fedspallm::app {
namespace {

using test::expect_error;

WrittenBlock sample() {
  WrittenBlock block;
  block.summary = {.round = 2,
                   .block = 7,
                   .rank = 3,
                   .clients = 4,
                   .weights = std::int64_t{1} << 40,
                   .dropped = 5,
                   .expanded = 6,
                   .error = 0.1,
                   .damping_steps = 1,
                   .above_target = true,
                   .recomputed = true,
                   .merge_seconds = 1.25,
                   .write_seconds = 2.5};
  block.entry = R"({"file":"x"})";
  block.uncovered = "w";
  return block;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto place = text.find(from);
  EXPECT_NE(place, std::string::npos) << from;
  return text.replace(place, from.size(), to);
}

void expect_damaged(const std::string& text, const std::string& what) {
  expect_error<DataError>(
      [&] {
        (void)written_block_from_text(text, {2, 7});
      },
      {"what a rank says of the block that it wrote is damaged", what});
}

TEST(WrittenBlock, TravelsAsText) {
  EXPECT_EQ(written_block_from_text(to_text(sample()), {2, 7}), sample());
}

TEST(WrittenBlock, AnErrorThatIsNoNumberTravels) {
  WrittenBlock block = sample();
  block.summary.error = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isnan(written_block_from_text(to_text(block), {2, 7}).summary.error));
}

TEST(WrittenBlock, RefusesWhatIsNone) {
  for (const std::string& bad : {std::string(), std::string("[1]"), std::string(R"({"entry":1})")})
    expect_damaged(bad, "");
  expect_damaged(replaced(to_text(sample()), R"("uncovered":"w")", R"("uncovered":1)"),
                 "type must be string");
  expect_damaged(replaced(to_text(sample()), R"("uncovered":"w")", R"("covered":"w")"), "uncovered");
  expect_damaged(replaced(to_text(sample()), "{", R"({"more":1,)"), "with 4 entries");
  expect_damaged(replaced(to_text(sample()), R"("above_target":true)", R"("above_target":1)"), "boolean");
}

TEST(WrittenBlock, RefusesNumbersThatItWouldHaveToBend) {
  for (const char* bad : {"-1", "1.5", "1e300", "true", "4294967296", "null"})
    expect_damaged(replaced(to_text(sample()), R"("rank":3)", fmt::format(R"("rank":{})", bad)), "'rank' is");
  expect_damaged(replaced(to_text(sample()), R"("error":0.1)", R"("error":"0.1")"), "'error' is string");
}

TEST(WrittenBlock, RefusesImpossibleCounts) {
  expect_damaged(replaced(to_text(sample()), R"("dropped":5)", R"("dropped":1099511627777)"),
                 "impossible counts");
  expect_damaged(replaced(to_text(sample()), R"("expanded":6)", R"("expanded":1099511627777)"),
                 "impossible counts");
  expect_damaged(replaced(to_text(sample()), R"("clients":4)", R"("clients":8388608)"), "impossible counts");
}

TEST(WrittenBlock, RefusesAnotherBlock) {
  const std::string text = to_text(sample());
  for (const store::Position expected : {store::Position{2, 6}, store::Position{1, 7}})
    expect_error<DataError>([&] { (void)written_block_from_text(text, expected); },
                            {"it is of block 7 of round 2"});
}

}  // namespace
}  // namespace fedspallm::app
