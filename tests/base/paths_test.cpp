// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/paths.hpp"

#include <gtest/gtest.h>

#include "support/support.hpp"

namespace fedspallm {
namespace {

TEST(IsInside, FollowsLinksAndNeedsNothingToExist) {
  const test::TemporaryFolder folder;
  const auto& root = folder.path();
  std::filesystem::create_directories(root / "run" / "model");
  std::filesystem::create_directory_symlink(root / "run", root / "link");
  EXPECT_EQ(is_inside(root / "run" / "model", root / "run"), true);
  EXPECT_EQ(is_inside(root / "run", root / "run"), true);
  EXPECT_EQ(is_inside(root / "link" / "model", root / "run" / "model"), true);
  EXPECT_EQ(is_inside(root / "link" / "new", root / "run"), true);
  EXPECT_EQ(is_inside(root / "run", root / "run" / "model"), false);
  EXPECT_EQ(is_inside(root / "runs", root / "run"), false) << "a longer name is another folder";
}

TEST(IsInside, TellsNothingOfLinksInACircle) {
  const test::TemporaryFolder folder;
  std::filesystem::create_symlink(folder.path() / "b", folder.path() / "a");
  std::filesystem::create_symlink(folder.path() / "a", folder.path() / "b");
  EXPECT_EQ(is_inside(folder.path() / "a", folder.path()), std::nullopt);
  EXPECT_EQ(is_inside(folder.path(), folder.path() / "b"), std::nullopt);
}

}  // namespace
}  // namespace fedspallm
