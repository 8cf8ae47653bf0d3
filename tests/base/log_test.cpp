// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/log.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/support.hpp"
#include <fstream>
#include <sstream>

namespace fedspallm {
namespace {

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

TEST(Logger, AppendsToItsFile) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "rank1.log";
  Logger(1, path.string()).info("block {} of {}", 3, 30);
  Logger(1, path.string()).warn("again");
  const auto lines = lines_of(path);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_THAT(lines[0], ::testing::EndsWith("info block 3 of 30"));
  EXPECT_THAT(lines[1], ::testing::EndsWith("warning again"));
}

TEST(Logger, FileHoldsEveryLevelWhateverTheConsoleShows) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "log";
  {
    Logger logger(2, path.string(), LogLevel::error);
    logger.debug("fine detail");
    logger.write(LogLevel::error, "bad {} news");  // braces are text here
  }
  const auto lines = lines_of(path);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_THAT(lines[0], ::testing::EndsWith("fine detail"));
  EXPECT_THAT(lines[1], ::testing::EndsWith("bad {} news"));
}

TEST(Logger, OnlyRankZeroWritesToStandardError) {
  testing::internal::CaptureStderr();
  Logger(0, "").info("from zero");
  Logger(1, "").info("from one");
  Logger(0, "", LogLevel::warning).info("below the level");
  const std::string shown = testing::internal::GetCapturedStderr();
  EXPECT_THAT(shown, ::testing::HasSubstr("from zero"));
  EXPECT_THAT(shown, ::testing::Not(::testing::HasSubstr("from one")));
  EXPECT_THAT(shown, ::testing::Not(::testing::HasSubstr("below the level")));
}

TEST(Logger, AFileThatCannotBeOpenedIsNamed) {
  const test::TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "not a folder";
  const std::string path = (folder.path() / "file" / "log").string();
  try {
    Logger logger(1, path);
    FAIL() << "accepted";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr(path));
  }
}

}  // namespace
}  // namespace fedspallm
