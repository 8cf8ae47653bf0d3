// SPDX-License-Identifier: Apache-2.0
// Purpose: one line to say which error a call must end in and what its message must name.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fedspallm::test {

/// Runs `call`, which must throw exactly an E whose message contains every fragment.
template <class E, class Call>
void expect_error(Call&& call, const std::vector<std::string>& fragments) {
  try {
    call();
  } catch (const E& error) {
    for (const std::string& fragment : fragments)
      EXPECT_THAT(std::string(error.what()), testing::HasSubstr(fragment));
    return;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error came: " << error.what();
    return;
  }
  ADD_FAILURE() << "no error came";
}

}  // namespace fedspallm::test
