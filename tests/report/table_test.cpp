// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/table.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace fedspallm::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(TextTable, AlignsTheFirstColumnLeftAndNumbersRight) {
  TextTable table({"name", "x", "longer"});
  table.add_row({"a", "1.00", "2"});
  table.add_row({"\xc3\xa4\xc3\xb6\xc3\xbc\xc3\x9f\xc3\xa9", "123.45", ""});
  EXPECT_EQ(table.text(),
            "name        x  longer\n"
            "-----  ------  ------\n"
            "a        1.00       2\n"
            "\xc3\xa4\xc3\xb6\xc3\xbc\xc3\x9f\xc3\xa9  123.45\n");
}

TEST(TextTable, WorksWithOneColumnAndNoRows) {
  EXPECT_EQ(TextTable({"x"}).text(), "x\n-\n");
}

TEST(TextTable, RefusesRaggedRows) {
  EXPECT_THROW(TextTable({}), LogicError);
  TextTable table({"a", "b"});
  EXPECT_THROW(table.add_row({"1"}), LogicError);
  EXPECT_THROW(table.add_row({"1", "2", "3"}), LogicError);
}

TEST(GeometricMean, IsTheExponentialOfTheMeanLogarithm) {
  EXPECT_DOUBLE_EQ(geometric_mean({4, 9}), 6);
  EXPECT_DOUBLE_EQ(geometric_mean({7}), 7);
  EXPECT_NEAR(geometric_mean({1e300, 1e300}), 1e300, 1e288) << "no overflow";
  EXPECT_TRUE(std::isnan(geometric_mean({})));
  EXPECT_TRUE(std::isnan(geometric_mean({1, kNan})));
}

ResultTable full() {
  return {.sets = {"novels", "pydoc"},
          .rows = {{"dense", {20, 45}}, {"stand-alone novels", {25.5, kNan}}, {"federated", {28, 63}}},
          .sparsity = 0.5,
          .bytes_on_wire = 123456789,
          .transport = "gather",
          .seconds = 271.26,
          .pruning_seconds = 180.04,
          .peak_rss_bytes = {std::int64_t{1} << 30, std::int64_t{3} << 29}};
}

TEST(ResultTable, ShowsModelsBySetsWithMeansAndFacts) {
  EXPECT_EQ(to_text(full()),
            "perplexity          novels  pydoc  geo. mean\n"
            "------------------  ------  -----  ---------\n"
            "dense                20.00  45.00      30.00\n"
            "stand-alone novels   25.50      -          -\n"
            "federated            28.00  63.00      42.00\n"
            "\n"
            "sparsity     0.500000 of the pruned matrices\n"
            "bytes sent   123,456,789 (118 MiB), transport gather\n"
            "seconds      271.3, of them pruning 180.0\n"
            "peak memory  1.50 GiB on rank 1, 2.50 GiB on all 2 ranks\n");
}

TEST(ResultTable, HasNoMeanOfOneSet) {
  const ResultTable table{.sets = {"x"}, .rows = {{"dense", {2}}}};
  EXPECT_EQ(to_text(table), "perplexity     x\n----------  ----\ndense       2.00\n\n");
}

TEST(ResultTable, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(to_text({}), "");
  ResultTable table = full();
  table.sets.clear();
  table.rows.clear();
  table.transport.clear();
  table.pruning_seconds = -1;
  table.peak_rss_bytes = {1024};
  EXPECT_EQ(to_text(table),
            "sparsity     0.500000 of the pruned matrices\n"
            "bytes sent   123,456,789 (118 MiB)\n"
            "seconds      271.3\n"
            "peak memory  1.00 KiB\n");
}

TEST(ResultTable, RefusesRowsThatDoNotMatchTheSets) {
  ResultTable table = full();
  table.rows[0].perplexities.pop_back();
  EXPECT_THROW((void)to_text(table), LogicError);
}

}  // namespace
}  // namespace fedspallm::report
