// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/cpu_features.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace fedspallm {
namespace {

/// Sets FEDSPALLM_ISA for a scope.
class ChosenIsa {
 public:
  explicit ChosenIsa(const std::string& name) {
    if (const char* before = std::getenv("FEDSPALLM_ISA")) before_ = before;
    setenv("FEDSPALLM_ISA", name.c_str(), 1);
  }
  ~ChosenIsa() { before_.empty() ? unsetenv("FEDSPALLM_ISA") : setenv("FEDSPALLM_ISA", before_.c_str(), 1); }
  ChosenIsa(const ChosenIsa&) = delete;
  ChosenIsa& operator=(const ChosenIsa&) = delete;

 private:
  std::string before_;
};

TEST(Isa, BaselineIsAlwaysSupported) {
  EXPECT_TRUE(supported(Isa::baseline));
}

TEST(Isa, AWiderSetImpliesTheNarrowerOne) {
  EXPECT_TRUE(!supported(Isa::avx512) || supported(Isa::avx2));
}

TEST(Isa, TheEnvironmentChoosesAmongSupportedSets) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    const ChosenIsa chosen{std::string(name_of(isa))};
    if (supported(isa)) {
      EXPECT_EQ(select_isa(), isa);
    } else {
      EXPECT_THROW((void)select_isa(), ConfigError);
    }
  }
}

TEST(Isa, WithoutAChoiceTheBestSupportedSetIsTaken) {
  const ChosenIsa chosen("");
  const Isa best = supported(Isa::avx512) ? Isa::avx512 : (supported(Isa::avx2) ? Isa::avx2 : Isa::baseline);
  EXPECT_EQ(select_isa(), best);
}

TEST(Isa, AnUnknownNameIsRefusedWithTheKnownOnes) {
  const ChosenIsa chosen("neon");
  try {
    (void)select_isa();
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("neon"), ::testing::HasSubstr("avx512")));
  }
}

}  // namespace
}  // namespace fedspallm
