// SPDX-License-Identifier: Apache-2.0
// Purpose: what the configuration's tests share: the smallest valid file, lines put into it, the message of a
// refusal.
#pragma once

#include "fedspallm/base/error.hpp"
#include "fedspallm/config/config.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fedspallm::config::test {

inline const char* const kFile = "/somewhere/configs/run.toml";

/// Line 1 is [model]; the client's name stands in line 6.
inline const char* const kSmallest =
    "[model]\n"
    "path = \"model\"\n"
    "[run]\n"
    "dir = \"run\"\n"
    "[[client]]\n"
    "name = \"novels\"\n"
    "tokens = \"novels.h5\"\n";

inline Config parsed(const std::string& text, const std::vector<std::string>& settings = {}) {
  return parse(text, kFile, settings);
}

/// The smallest file with more lines after it (an own [table] each, or keys of the client).
inline Config with(const std::string& lines, const std::vector<std::string>& settings = {}) {
  return parsed(kSmallest + lines, settings);
}

/// what() of the ConfigError that a text must cause; "" and a failure when it is accepted.
inline std::string refusal(const std::string& text, const std::vector<std::string>& settings = {}) {
  try {
    (void)parsed(text, settings);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.status(), ExitStatus::bad_input);
    return error.what();
  }
  ADD_FAILURE() << "accepted:\n" << text;
  return {};
}

inline std::string refusal_with(const std::string& lines, const std::vector<std::string>& settings = {}) {
  return refusal(kSmallest + lines, settings);
}

}  // namespace fedspallm::config::test
