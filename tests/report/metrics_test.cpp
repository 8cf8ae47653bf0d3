// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/metrics.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/support.hpp"
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>
#include <vector>

namespace fedspallm::report {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::vector<std::string> lines_in(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// What a reader of one line finds.
nlohmann::json parsed(const std::string& line) {
  return nlohmann::json::parse(line);
}

TEST(Event, PrintsNameAndTimesFirstThenItsFields) {
  const Event event{
      "block", {{"block", 3}, {"client", "novels"}, {"seconds", 1.5}}, Stamp{1000000000.25, 12.5}};
  EXPECT_EQ(to_json(event),
            "{\"event\":\"block\",\"time\":\"2001-09-09T01:46:40.250Z\",\"monotonic\":12.500000,"
            "\"block\":3,\"client\":\"novels\",\"seconds\":1.5}");
  EXPECT_EQ(to_json({"end", nlohmann::json::object(), Stamp{0, 0}}),
            "{\"event\":\"end\",\"time\":\"1970-01-01T00:00:00.000Z\",\"monotonic\":0.000000}");
}

TEST(Event, OneFieldIsAnObjectToo) {
  const Event event{"run_finished", {{"seconds", 2.5}}};
  EXPECT_EQ(parsed(to_json(event))["seconds"], 2.5);
  EXPECT_TRUE(event.fields.is_object());
}

TEST(Event, IsOneLineOfJsonWithAllItsFields) {
  const nlohmann::json fields = {{"bytes", std::int64_t{1} << 40},
                                 {"error", 0.1},
                                 {"ok", true},
                                 {"votes", {1, 2, 3}},
                                 {"name", "a\nb\"\xc3\xa4"}};
  const std::string text = to_json({"block", fields, Stamp{1700000000.125, 3.25}});
  EXPECT_EQ(text.find('\n'), std::string::npos) << "one line";
  nlohmann::json expected = fields;
  expected["event"] = "block";
  expected["time"] = "2023-11-14T22:13:20.125Z";
  expected["monotonic"] = 3.25;
  EXPECT_EQ(parsed(text), expected);
}

TEST(Event, WithoutAStampGetsTheTimeOfWriting) {
  const Stamp before = stamp_now();
  const double written = parsed(to_json({"x", nlohmann::json::object()}))["monotonic"];
  EXPECT_GE(written, before.monotonic - 1e-6);  // as many digits are kept
  EXPECT_LE(written, stamp_now().monotonic + 1e-6);
}

TEST(Event, NumbersThatAreNotFiniteAndTextsThatAreNotUtf8DoNotBreakTheLine) {
  const std::string text = to_json({"x", {{"nan", std::nan("")}, {"text", "a\xff"}}});
  nlohmann::json fields = parsed(text);
  EXPECT_TRUE(fields["nan"].is_null());
  EXPECT_EQ(fields["text"], "a\xef\xbf\xbd");
}

TEST(Event, RefusesReservedNamesAndOtherShapes) {
  EXPECT_THROW((void)to_json({"", nlohmann::json::object()}), LogicError);
  EXPECT_THROW((void)to_json({"x", nlohmann::json::array({1})}), LogicError);
  for (const char* name : {"event", "time", "monotonic"})
    EXPECT_THROW((void)to_json({"x", {{name, 1}}}), LogicError) << name;
}

TEST(Event, ParsesBackToWhatItWas) {
  const Event event{"block", {{"bytes", std::int64_t{1} << 40}, {"error", 0.1}}, Stamp{1700000000.125, 3.25}};
  const Event again = parse_event(to_json(event));
  EXPECT_EQ(again.name, event.name);
  EXPECT_EQ(again.fields, event.fields);
  ASSERT_TRUE(again.stamp.has_value());
  EXPECT_EQ(again.stamp->time, event.stamp->time);
  EXPECT_EQ(again.stamp->monotonic, event.stamp->monotonic);
}

TEST(Event, ParsingRefusesWhatIsNoEvent) {
  for (const char* text : {"", "x", "[]", "3", "{}", "{\"event\":\"x\"}",
                           "{\"event\":3,\"time\":\"2001-09-09T01:46:40Z\",\"monotonic\":1}",
                           "{\"event\":\"\",\"time\":\"2001-09-09T01:46:40Z\",\"monotonic\":1}",
                           "{\"event\":\"x\",\"time\":\"yesterday\",\"monotonic\":1}",
                           "{\"event\":\"x\",\"time\":\"2001-09-09T01:46:40\",\"monotonic\":1}",
                           "{\"event\":\"x\",\"time\":\"2001-09-09T01:46:40Z\",\"monotonic\":\"1\"}",
                           "{\"event\":\"x\",\"time\":\"2001-09-09T01:46:40.250Z\",\"monotonic\":12.5"})
    EXPECT_THROW((void)parse_event(text), DataError) << text;
}

TEST(MetricsWriter, AppendsALinePerEventThatCanBeReadAtOnce) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  MetricsWriter writer(file);
  EXPECT_TRUE(lines_in(file).empty());
  for (int block = 0; block < 3; ++block) {
    writer.write({"block", {{"block", block}}});
    const auto lines = lines_in(file);
    ASSERT_EQ(lines.size(), static_cast<std::size_t>(block) + 1);
    EXPECT_EQ(parsed(lines.back())["block"], block);
  }
}

TEST(MetricsWriter, ARunThatStartsAgainKeepsEarlierLines) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  { MetricsWriter(file).write({"first", nlohmann::json::object()}); }
  { MetricsWriter(file).write({"second", nlohmann::json::object()}); }
  const auto lines = lines_in(file);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(parsed(lines[0])["event"], "first");
  EXPECT_EQ(parsed(lines[1])["event"], "second");
}

TEST(MetricsWriter, ATornLineSpoilsNoOther) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  std::ofstream(file) << "{\"event\":\"whole\"}\n{\"event\":\"to";
  { MetricsWriter(file).write({"next", nlohmann::json::object()}); }
  const auto lines = lines_in(file);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[1], "{\"event\":\"to");
  EXPECT_EQ(parsed(lines[2])["event"], "next");
}

TEST(MetricsWriter, LinesOfSeveralThreadsDoNotMix) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "metrics.jsonl";
  constexpr int kThreads = 4, kEvents = 200;
  {
    MetricsWriter writer(file);
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&writer, t] {
        for (int i = 0; i < kEvents; ++i)
          writer.write({"x", {{"thread", t}, {"text", std::string(500, 'a')}}});
      });
  }
  const auto lines = lines_in(file);
  EXPECT_EQ(lines.size(), static_cast<std::size_t>(kThreads * kEvents));
  for (const auto& line : lines) EXPECT_NO_THROW((void)parsed(line));
}

TEST(MetricsWriter, NamesTheFileItCannotOpenOrWrite) {
  const test::TemporaryFolder folder;
  try {
    const MetricsWriter writer(folder.path() / "absent" / "metrics.jsonl");
    FAIL();
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("absent/metrics.jsonl: cannot be opened: "));
  }
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  MetricsWriter full("/dev/full");
  try {
    full.write({"x", nlohmann::json::object()});
    FAIL();
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), StartsWith("/dev/full: cannot be written: "));
  }
}

}  // namespace
}  // namespace fedspallm::report
