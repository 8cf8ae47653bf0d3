// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace fedspallm {
namespace {

template <class E>
void expect_status(ExitStatus wanted) {
  try {
    throw E("the message");
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), wanted);
    EXPECT_STREQ(error.what(), "the message");
  }
}

TEST(Errors, EachClassStandsForItsExitStatus) {
  expect_status<CheckFailed>(ExitStatus::check_failed);
  expect_status<ConfigError>(ExitStatus::bad_input);
  expect_status<ModelError>(ExitStatus::bad_input);
  expect_status<DataError>(ExitStatus::bad_input);
  expect_status<NotCompiled>(ExitStatus::bad_input);
  expect_status<LaunchError>(ExitStatus::started_wrongly);
  expect_status<ResourceError>(ExitStatus::no_resources);
  expect_status<LockedError>(ExitStatus::locked);
  expect_status<PeerError>(ExitStatus::peer_lost);
  expect_status<NumericalError>(ExitStatus::numerical);
  expect_status<Stopped>(ExitStatus::stopped);
}

template <class Thrown>
Error mapped(const Thrown& thrown) {
  try {
    throw thrown;
  } catch (...) {
    return current_error();
  }
}

TEST(Errors, WhatTheStandardLibraryThrowsIsMemoryOrFilesOrUnexpected) {
  EXPECT_EQ(mapped(DataError("as it is")).status(), ExitStatus::bad_input);
  EXPECT_STREQ(mapped(DataError("as it is")).what(), "as it is");
  EXPECT_EQ(mapped(std::bad_alloc()).status(), ExitStatus::no_resources);
  const std::filesystem::filesystem_error denied("create", "run/logs",
                                                 std::make_error_code(std::errc::permission_denied));
  EXPECT_EQ(mapped(denied).status(), ExitStatus::no_resources);
  EXPECT_STREQ(mapped(denied).what(), "run/logs: Permission denied");
  EXPECT_EQ(mapped(std::out_of_range("odd")).status(), ExitStatus::check_failed);
  EXPECT_STREQ(mapped(std::out_of_range("odd")).what(), "unexpected: odd");
  EXPECT_EQ(mapped(7).status(), ExitStatus::check_failed);
}

TEST(Errors, ExitStatusesAreTheDocumentedNumbers) {
  EXPECT_EQ(static_cast<int>(ExitStatus::done), 0);
  EXPECT_EQ(static_cast<int>(ExitStatus::check_failed), 1);
  EXPECT_EQ(static_cast<int>(ExitStatus::bad_input), 2);
  EXPECT_EQ(static_cast<int>(ExitStatus::started_wrongly), 3);
  EXPECT_EQ(static_cast<int>(ExitStatus::no_resources), 4);
  EXPECT_EQ(static_cast<int>(ExitStatus::locked), 5);
  EXPECT_EQ(static_cast<int>(ExitStatus::peer_lost), 6);
  EXPECT_EQ(static_cast<int>(ExitStatus::numerical), 7);
  EXPECT_EQ(static_cast<int>(ExitStatus::stopped), 75);
}

TEST(Errors, OriginIsFileAndLineOfTheThrow) {
  try {
    throw DataError("x");
  } catch (const Error& error) {
    EXPECT_THAT(error.origin(), ::testing::MatchesRegex("error_test.cpp:[0-9]+"));
  }
}

TEST(Errors, CheckAndRequireThrowOnlyWhenTheConditionFails) {
  EXPECT_NO_THROW(check<ModelError>(true, "fine"));
  EXPECT_NO_THROW(require(true, "fine"));
  EXPECT_THROW(check<ModelError>(false, "broken"), ModelError);
  try {
    require(false, "rows >= 0");
    FAIL() << "accepted";
  } catch (const LogicError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("rows >= 0"));
    EXPECT_THAT(error.origin(), ::testing::StartsWith("error_test.cpp:"));
  }
}

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  return nearest_name(word, known.data(), known.size());
}

TEST(NearestName, FindsTyposAndGivesUpOnStrangers) {
  const std::vector<std::string> keys = {"sparsity", "pattern", "block_size", "damping", "order", "count"};
  EXPECT_EQ(nearest("sparsity", keys), "sparsity");
  EXPECT_EQ(nearest("sparisty", keys), "sparsity");
  EXPECT_EQ(nearest("blocksize", keys), "block_size");
  EXPECT_EQ(nearest("dampening", keys), "damping");
  EXPECT_EQ(nearest("odrer", keys), "order");
  EXPECT_EQ(nearest("transport_layer_xyz", keys), "");
  EXPECT_EQ(nearest("qqqqqq", keys), "");
  EXPECT_EQ(nearest("", {"abcdef"}), "");
  EXPECT_EQ(nearest("ab", {"abcde"}), "") << "three letters more";
  EXPECT_EQ(nearest("abcdefgh", {"abcd"}), "abcd") << "half of the word";
  EXPECT_EQ(nearest("abcdefghi", {"abcd"}), "") << "more than half of it";
  EXPECT_EQ(nearest(std::string(1'000'000, 's'), keys), "");
  EXPECT_EQ(nearest("anything", {}), "");
}

TEST(NearestName, TakesTheFirstOfEquallyNearOnes) {
  EXPECT_EQ(nearest("bat", {"cat", "hat"}), "cat");
}

/// By its definition.
std::size_t distance(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty()) return a.size() + b.size();
  const std::size_t first = distance(a.substr(1), b.substr(1)) + (a[0] == b[0] ? 0U : 1U);
  return std::min({first, distance(a.substr(1), b) + 1, distance(a, b.substr(1)) + 1});
}

TEST(NearestName, IsTheFirstOfTheSmallestDistanceThatIsNotTooLarge) {
  std::mt19937 random(1);
  const auto word = [&] {
    std::string text(random() % 7, 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    return text;
  };
  for (int repetition = 0; repetition < 300; ++repetition) {
    const std::string wanted = word();
    const std::vector<std::string> known = {word(), word(), word()};
    std::string expected;
    std::size_t least = std::max<std::size_t>(2, wanted.size() / 2) + 1;
    for (const std::string& name : known) {
      if (distance(wanted, name) >= least) continue;
      least = distance(wanted, name);
      expected = name;
    }
    EXPECT_EQ(nearest(wanted, known), expected) << wanted;
  }
}

}  // namespace
}  // namespace fedspallm
