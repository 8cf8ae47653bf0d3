// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/format.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace fedspallm::report {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(Format, DurationsReadLikeAClock) {
  const std::vector<std::pair<double, std::string>> rows = {
      {0, "0.0 s"},          {0.44, "0.4 s"},   {9.94, "9.9 s"},     {9.96, "10 s"},
      {59.4, "59 s"},        {59.6, "1:00"},    {83, "1:23"},        {3599.4, "59:59"},
      {3599.6, "1:00:00"},   {7384, "2:03:04"}, {86399, "23:59:59"}, {86400, "1 d 00:00"},
      {266580, "3 d 02:03"}, {-1, "?"},         {kNan, "?"},         {kInf, "?"},
      {1e300, "?"}};
  for (const auto& [seconds, text] : rows) EXPECT_EQ(duration_text(seconds), text) << seconds;
}

TEST(Format, BytesHaveThreeDigitsAndABinaryUnit) {
  const std::vector<std::pair<std::int64_t, std::string>> rows = {
      {0, "0 B"},
      {1, "1 B"},
      {1023, "1023 B"},
      {1024, "1.00 KiB"},
      {1536, "1.50 KiB"},
      {10240, "10.0 KiB"},
      {102400, "100 KiB"},
      {1023 * 1024, "1.00 MiB"},
      {1 << 20, "1.00 MiB"},
      {std::int64_t{5} << 30, "5.00 GiB"},
      {-2048, "-2.00 KiB"},
      {std::numeric_limits<std::int64_t>::max(), "8192 PiB"}};
  for (const auto& [bytes, text] : rows) EXPECT_EQ(bytes_text(bytes), text) << bytes;
}

TEST(Format, CountsHaveSeparators) {
  const std::vector<std::pair<std::int64_t, std::string>> rows = {
      {0, "0"},
      {7, "7"},
      {999, "999"},
      {1000, "1,000"},
      {106168320, "106,168,320"},
      {-999, "-999"},
      {-1000, "-1,000"},
      {std::numeric_limits<std::int64_t>::min(), "-9,223,372,036,854,775,808"}};
  for (const auto& [count, text] : rows) EXPECT_EQ(count_text(count), text);
}

TEST(Format, PerplexitiesStayReadable) {
  const std::vector<std::pair<double, std::string>> rows = {{29.388, "29.39"},     {1, "1.00"},
                                                            {99999.0, "99999.00"}, {1.234e6, "1.2e+06"},
                                                            {kNan, "-"},           {kInf, "inf"}};
  for (const auto& [value, text] : rows) EXPECT_EQ(perplexity_text(value), text);
}

TEST(Format, WidthCountsCharactersAndClippingCutsNone) {
  const std::string text = "a\xc3\xa4\xe2\x82\xac z";  // a, a-umlaut, euro, space, z
  EXPECT_EQ(display_width(text), 5U);
  EXPECT_EQ(display_width(""), 0U);
  EXPECT_EQ(clipped(text, 0), "");
  EXPECT_EQ(clipped(text, 1), "a");
  EXPECT_EQ(clipped(text, 2), "a\xc3\xa4");
  EXPECT_EQ(clipped(text, 3), "a\xc3\xa4\xe2\x82\xac");
  EXPECT_EQ(clipped(text, 5), text);
  EXPECT_EQ(clipped(text, 99), text);
}

}  // namespace
}  // namespace fedspallm::report
