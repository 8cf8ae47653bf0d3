// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/data/tokens.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/data/hdf5.hpp"

#include <gtest/gtest.h>

#include "support/expect_error.hpp"
#include "support/support.hpp"
#include <numeric>
#include <set>

namespace fedspallm::data {
namespace {

using test::expect_error;

class TokenFileTest : public testing::Test {
 protected:
  template <class Fill>
  std::filesystem::path write(Fill&& fill) {
    const auto path = folder_.path() / ("tokens" + std::to_string(files_++) + ".h5");
    hdf5::File file = hdf5::File::create(path);
    fill(file.root());
    file.close();
    return path;
  }

 private:
  test::TemporaryFolder folder_;
  int files_ = 0;
};

TEST_F(TokenFileTest, ReadsBothElementTypesAndTheAttributes) {
  const auto with_attributes = [](const hdf5::Group& root) {
    root.write_integer("vocab_size", 70000);
    root.write_string("tokenizer_sha256", "abc");
    root.write_string("source", "novels.txt");
  };
  const auto narrow = write([&](const hdf5::Group& root) {
    root.write("tokens", std::vector<std::uint16_t>{0, 65535, 7});
    with_attributes(root);
  });
  const auto wide = write([&](const hdf5::Group& root) {
    root.write("tokens", std::vector<std::int32_t>{0, 65535, 7});
    with_attributes(root);
  });
  for (const auto& path : {narrow, wide}) {
    const TokenFile file = read_token_file(path, 65536);
    EXPECT_EQ(file.path, path);
    EXPECT_EQ(file.tokens, (std::vector<std::int32_t>{0, 65535, 7}));
    EXPECT_EQ(file.vocab_size, 70000);
    EXPECT_EQ(file.tokenizer_sha256, "abc");
    EXPECT_EQ(file.source, "novels.txt");
  }
}

TEST_F(TokenFileTest, AHashThatIsNoTextIsRefused) {
  for (const std::string hash : {"\xff\xfe", "ab\ncd", "caf\xc3\xa9"}) {
    const auto path = write([&](const hdf5::Group& root) {
      root.write("tokens", std::vector<std::int32_t>{1});
      root.write_string("tokenizer_sha256", hash);
    });
    test::expect_error<DataError>([&] { static_cast<void>(read_token_file(path, 10)); },
                                  {path.string(), "'tokenizer_sha256'", "printable"});
  }
}

TEST_F(TokenFileTest, AttributesMayBeAbsent) {
  const auto path =
      write([](const hdf5::Group& root) { root.write("tokens", std::vector<std::int32_t>{1}); });
  const TokenFile file = read_token_file(path, 2);
  EXPECT_EQ(file.vocab_size, 0);
  EXPECT_EQ(file.tokenizer_sha256, "");
  EXPECT_EQ(file.source, "");
}

TEST_F(TokenFileTest, IdsOutsideTheVocabularyAreNamedWithTheirPlace) {
  const auto high = write([](const hdf5::Group& root) {
    root.write("tokens", std::vector<std::int32_t>{1, 99, 100, 101});
  });
  EXPECT_EQ(read_token_file(high, 102).tokens.size(), 4U);
  expect_error<DataError>([&] { static_cast<void>(read_token_file(high, 100)); },
                          {high.string(), "token 2 is 100", "from 0 to 99"});
  const auto low = write([](const hdf5::Group& root) {
    root.write("tokens", std::vector<std::int32_t>{1, -1});
  });
  expect_error<DataError>([&] { static_cast<void>(read_token_file(low, 100)); },
                          {low.string(), "token 1 is -1"});
  EXPECT_THROW(static_cast<void>(read_token_file(high, 0)), LogicError);
}

TEST_F(TokenFileTest, FilesOfAnotherKindAreRefused) {
  const std::vector<std::pair<std::filesystem::path, std::vector<std::string>>> cases = {
      {write([](const hdf5::Group&) {}), {"no dataset 'tokens'"}},
      {write([](const hdf5::Group& root) { root.create_group("tokens"); }),
       {"/tokens", "cannot open the dataset"}},
      {write([](const hdf5::Group& root) { root.write("tokens", std::vector<std::int64_t>{1}); }),
       {"has type int64", "int32 or uint16"}},
      {write([](const hdf5::Group& root) { root.write("tokens", std::vector<float>{1}); }),
       {"has type float32"}},
      {write([](const hdf5::Group& root) { root.write_text("tokens", "words"); }), {"has type string"}},
      {write([](const hdf5::Group& root) {
         root.write_2d<std::int32_t>("tokens", {1, 2}, std::vector<std::int32_t>{1, 2});
       }),
       {"shape 1 x 2", "expected 1 dimension"}},
      {write([](const hdf5::Group& root) { root.write("tokens", std::vector<std::int32_t>{}); }),
       {"is empty"}},
      {write([](const hdf5::Group& root) {
         root.write("tokens", std::vector<std::int32_t>{1});
         root.write_string("vocab_size", "many");
       }),
       {"'vocab_size'", "has type string", "expected an integer"}},
      {"no-such-file.h5", {"no such file"}},
  };
  for (const auto& [path, fragments] : cases) {
    auto all = fragments;
    all.push_back(path.string());
    expect_error<DataError>([&] { static_cast<void>(read_token_file(path, 100)); }, all);
  }
}

TokenFile counting(std::int64_t size) {
  TokenFile file;
  file.path = "FILE";
  file.tokens.resize(static_cast<std::size_t>(size));
  std::iota(file.tokens.begin(), file.tokens.end(), 0);
  return file;
}

TEST(SequentialWindows, AreWholeAndBackToBack) {
  const Windows windows = sequential_windows(counting(11), 3, 3);
  EXPECT_EQ(windows.samples, 3);
  EXPECT_EQ(windows.length, 3);
  EXPECT_EQ(windows.tokens, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(SequentialWindows, AllOfThemIsAsManyAsFit) {
  for (const auto& [tokens, length, expected] :
       std::vector<std::tuple<int, int, int>>{{9, 3, 3}, {11, 3, 3}, {3, 3, 1}, {5, 1, 5}})
    EXPECT_EQ(sequential_windows(counting(tokens), -1, length).samples, expected);
  EXPECT_EQ(sequential_windows(counting(4), 0, 3).tokens.size(), 0U);
}

TEST(SequentialWindows, TooFewTokensAreCounted) {
  expect_error<DataError>([] { static_cast<void>(sequential_windows(counting(8), 3, 3)); },
                          {"FILE", "8 tokens", "at least 9", "3 windows of 3"});
  expect_error<DataError>([] { static_cast<void>(sequential_windows(counting(2), -1, 3)); },
                          {"2 tokens", "at least 3", "1 window of 3"});
  EXPECT_THROW(static_cast<void>(sequential_windows(counting(8), 1, 0)), LogicError);
  EXPECT_THROW(static_cast<void>(sequential_windows(counting(8), std::int64_t{1} << 62, 16)), LogicError);
}

TEST(RandomWindows, AreRunsOfTheTextAndReachBothEnds) {
  const std::int64_t length = 4;
  const Windows windows = random_windows(counting(10), 500, length, 3, 0);
  ASSERT_EQ(windows.tokens.size(), 2000U);
  std::set<std::int32_t> starts;
  for (std::size_t window = 0; window < 500; ++window) {
    const std::int32_t start = windows.tokens[window * 4];
    starts.insert(start);
    for (std::int32_t i = 0; i < length; ++i)
      EXPECT_EQ(windows.tokens[window * 4 + static_cast<std::size_t>(i)], start + i);
  }
  EXPECT_EQ(starts, (std::set<std::int32_t>{0, 1, 2, 3, 4, 5, 6}));  // [0, T - L]
}

TEST(RandomWindows, DependOnSeedAndClientOnly) {
  const TokenFile file = counting(100'000);
  const auto tokens = [&](std::int64_t samples, std::uint64_t seed, std::uint32_t client) {
    return random_windows(file, samples, 4, seed, client).tokens;
  };
  EXPECT_EQ(tokens(8, 1, 0), tokens(8, 1, 0));
  EXPECT_NE(tokens(8, 1, 0), tokens(8, 2, 0));
  EXPECT_NE(tokens(8, 1, 0), tokens(8, 1, 1));
  const auto more = tokens(16, 1, 0);  // the first windows stay when more are asked for
  EXPECT_EQ(std::vector<std::int32_t>(more.begin(), more.begin() + 32), tokens(8, 1, 0));
}

TEST(RandomWindows, OneWindowOfTheWholeTextIsPossibleAndOneMoreTokenIsNot) {
  EXPECT_EQ(random_windows(counting(5), 2, 5, 1, 0).tokens,
            (std::vector<std::int32_t>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4}));
  EXPECT_TRUE(random_windows(counting(5), 0, 5, 1, 0).tokens.empty());
  expect_error<DataError>([] { static_cast<void>(random_windows(counting(5), 1, 6, 1, 0)); },
                          {"FILE", "5 tokens", "at least 6"});
  EXPECT_THROW(static_cast<void>(random_windows(counting(5), -1, 5, 1, 0)), LogicError);
  EXPECT_THROW(static_cast<void>(random_windows(counting(5), 1, 0, 1, 0)), LogicError);
}

TEST(Concatenate, JoinsTextsAndKeepsWhatAllAgreeOn) {
  TokenFile a = counting(2);
  a.path = "a.h5";
  a.source = "one";
  a.vocab_size = 9;
  a.tokenizer_sha256 = "x";
  TokenFile b = a;
  b.path = "b.h5";
  b.source = "two";
  b.tokenizer_sha256 = "y";
  const TokenFile both = concatenate({a, b});
  EXPECT_EQ(both.tokens, (std::vector<std::int32_t>{0, 1, 0, 1}));
  EXPECT_EQ(both.path, "a.h5+b.h5");
  EXPECT_EQ(both.source, "one, two");
  EXPECT_EQ(both.vocab_size, 9);
  EXPECT_EQ(both.tokenizer_sha256, "");
  EXPECT_EQ(concatenate({a}).path, "a.h5");
  EXPECT_EQ(concatenate({a}).tokenizer_sha256, "x");
  EXPECT_THROW(static_cast<void>(concatenate({})), LogicError);
}

}  // namespace
}  // namespace fedspallm::data
