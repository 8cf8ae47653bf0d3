// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/resume_file.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "store/store_support.hpp"
#include <fstream>

namespace fedspallm::store::test {
namespace {

class ResumeFile : public ::testing::Test {
 protected:
  [[nodiscard]] nlohmann::json content() const { return nlohmann::json::parse(std::ifstream(file)); }

  TemporaryFolder folder;
  std::filesystem::path file = folder.path() / "resume.json";
  RunIdentity identity{.run_id = ~std::uint64_t{0},
                       .facts = {{"prune.sparsity", "0.5"}, {"clients", "a, \"b\""}},
                       .dropped = {{2, {1, 7}, "NaN"}}};
};

TEST_F(ResumeFile, ReadsBackWhatWasWritten) {
  EXPECT_FALSE(read_identity(file).has_value());
  write_identity(file, identity);
  const auto found = read_identity(file);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->run_id, identity.run_id);
  EXPECT_EQ(found->facts, identity.facts);
  EXPECT_EQ(to_json(found->dropped), to_json(identity.dropped));
}

TEST_F(ResumeFile, EveryChangeIsDamage) {
  write_identity(file, identity);
  const nlohmann::json sound = content();
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, nlohmann::json>>{
           {"run_id", "0000000000000007"},
           {"run_id", 7},
           {"facts", {{"prune.sparsity", "0.6"}}},
           {"facts", {{"prune.sparsity", 0.5}}},
           {"dropped", nlohmann::json::array()},
           {"dropped", 5},
           {"dropped", {{{"client", -1}, {"round", 1}, {"block", 7}, {"reason", "NaN"}}}},
           {"format_version", 1},
           {"xxh3", "0"}}) {
    nlohmann::json changed = sound;
    changed[key] = value;
    write_file(file, changed.dump());
    expect_error<DataError>([&] { static_cast<void>(read_identity(file)); }, {"resume.json", "damaged"});
  }
  for (const std::string& text : {std::string(), std::string("{"), std::string(100000, '[')}) {
    write_file(file, text);
    expect_error<DataError>([&] { static_cast<void>(read_identity(file)); }, {"resume.json", "damaged"});
  }
}

}  // namespace
}  // namespace fedspallm::store::test
