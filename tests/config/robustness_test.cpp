// SPDX-License-Identifier: Apache-2.0
// Random damage to a valid file, from fixed seeds: parse() gives a Config that prints and reads back, or
// throws a ConfigError with a message, and nothing else.
#include "fedspallm/base/random.hpp"

#include "valid.hpp"
#include <algorithm>

namespace fedspallm::config::test {
namespace {

/// Numbers of one damaged file.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : key_{.seed = seed, .use = RandomUse::simulation} {}
  std::size_t below(std::size_t bound) { return random_below(key_, next_++, bound); }

 private:
  RandomKey key_;
  std::uint64_t next_ = 0;
};

const std::vector<std::string>& pieces() {
  static const std::vector<std::string> all = {"\"",
                                               "'",
                                               "\"\"\"",
                                               "[",
                                               "]",
                                               "[[",
                                               "]]",
                                               "{",
                                               "}",
                                               "=",
                                               ".",
                                               ",",
                                               "\n",
                                               "\r",
                                               "#",
                                               "\\",
                                               "\\u0000",
                                               "\\uD800",
                                               "-",
                                               "+",
                                               "nan",
                                               "inf",
                                               "-inf",
                                               "1e999",
                                               "99999999999999999999",
                                               "9223372036854775807",
                                               "-1",
                                               "0x",
                                               "true",
                                               "2:4",
                                               "1979-05-27T07:32:00Z",
                                               "[client]",
                                               "[[client]]",
                                               "[[prune]]",
                                               "[model]",
                                               "x = 1",
                                               "client = 3",
                                               "\xff",
                                               "\xc3",
                                               std::string("\0", 1),
                                               "\xef\xbb\xbf",
                                               "prune.sparsity = 0.5",
                                               "name = \"..\"",
                                               "tokens = []"};
  return all;
}

std::string damaged(std::string text, Dice& dice) {
  const std::size_t changes = 1 + dice.below(3);
  for (std::size_t i = 0; i < changes; ++i) {
    const std::size_t at = text.empty() ? 0 : dice.below(text.size());
    const std::size_t length = std::min(dice.below(20), text.size() - at);
    switch (dice.below(6)) {
      case 0:
        text.erase(at, length);
        break;
      case 1:
        text.insert(at, pieces()[dice.below(pieces().size())]);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      case 3:
        text.resize(at);
        break;
      case 4:
        if (!text.empty()) text[at] = static_cast<char>(dice.below(256));
        break;
      default:
        text.replace(at, length, pieces()[dice.below(pieces().size())]);
    }
  }
  return text;
}

bool accepted(const std::string& text, const std::vector<std::string>& settings = {}) {
  Config config;
  try {
    config = parse(text, kFile, settings);
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()), "");
    return false;
  }
  EXPECT_EQ(parse(to_toml(config), kFile), config) << text;
  return true;
}

std::string valid_text() {
  Config config = with(
      "samples = 3\nrank = 1\n[prune]\npattern = \"2:4\"\n[[evaluation]]\nname = \"e\"\ntokens = \"t\"\n");
  return to_toml(config);
}

TEST(Robustness, DamagedFilesAreReadOrRefusedWithAMessage) {
  const std::string valid = valid_text();
  int taken = 0;
  int refused = 0;
  for (std::uint64_t seed = 0; seed < 20000; ++seed) {
    Dice dice(seed);
    ++(accepted(damaged(valid, dice)) ? taken : refused);
  }
  EXPECT_GT(taken, 500) << "the damage is too hard to reach the checks behind the parser";
  EXPECT_GT(refused, 10000);
}

TEST(Robustness, DamagedSettingsAreReadOrRefusedWithAMessage) {
  const std::string valid = valid_text();
  const std::vector<std::string> keys = known_keys();
  for (std::uint64_t seed = 0; seed < 5000; ++seed) {
    Dice dice(100000 + seed);
    std::string key = keys[dice.below(keys.size())];
    if (const auto name = key.find("NAME"); name != std::string::npos)
      key.replace(name, 4, key[0] == 'c' ? "novels" : "e");
    accepted(valid, {damaged(key + "=0.5", dice)});
  }
}

TEST(Robustness, DeepNestingIsRefused) {
  std::string deep = "[model]\npath = ";
  for (int i = 0; i < 100000; ++i) deep += '[';
  EXPECT_FALSE(accepted(deep));
  std::string dotted = "a";
  for (int i = 0; i < 20000; ++i) dotted += ".a";
  EXPECT_FALSE(accepted(dotted + " = 1\n"));
}

TEST(Robustness, ManyOrLongProblemsMakeAShortMessage) {
  std::string text = "[model]\npath = \"m\"\n";
  for (int i = 0; i < 1000; ++i) text += fmt::format("unknown{} = 1\n", i);
  text += "\"" + std::string(500'000, 'k') + "\xc3\xa9\" = 1\n";
  try {
    static_cast<void>(parse(text, kFile));
    FAIL() << "a key that nobody knows was taken";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_LT(message.size(), 50 * 1100U);
    EXPECT_NE(message.find("unknown0"), std::string::npos);
    EXPECT_NE(message.find("... and 953 more"), std::string::npos) << message.substr(message.size() - 100);
  }
}

TEST(Robustness, EveryPrefixOfAFileIsReadOrRefused) {
  const std::string valid = valid_text();
  for (std::size_t length = 0; length < valid.size(); ++length) accepted(valid.substr(0, length));
  EXPECT_TRUE(accepted(valid));
}

}  // namespace
}  // namespace fedspallm::config::test
