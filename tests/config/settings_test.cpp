// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "valid.hpp"

namespace fedspallm::config::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Settings, TakeTomlValuesAndBareWords) {
  const Config config =
      parsed(kSmallest, {"prune.sparsity=0.25", "run.seed = 7", "federation.mask_expansion=false",
                         "prune.method=wanda", "run.dir=\"quoted\"", "model.dtype='float32'"});
  EXPECT_EQ(config.prune.sparsity, 0.25);
  EXPECT_EQ(config.run.seed, 7U);
  EXPECT_FALSE(config.federation.mask_expansion);
  EXPECT_EQ(config.prune.method, Method::wanda);
  EXPECT_EQ(config.run.dir, "/somewhere/configs/quoted");
  EXPECT_EQ(config.model.dtype, ModelDType::float32);
}

TEST(Settings, TakeWordsThatLookLikeOtherTypesWhereTextIsExpected) {
  EXPECT_EQ(parsed(kSmallest, {"prune.pattern=2:4"}).prune.pattern, (Pattern{2, 4}));
  EXPECT_EQ(parsed(kSmallest, {"run.dir=2024"}).run.dir, "/somewhere/configs/2024");
  EXPECT_EQ(parsed(kSmallest, {"run.dir=2024-01-02"}).run.dir, "/somewhere/configs/2024-01-02");
  EXPECT_EQ(parsed(kSmallest, {"run.dir=5#a"}).run.dir, "/somewhere/configs/5#a");
  EXPECT_EQ(parsed(kSmallest, {"run.dir=a=b"}).run.dir, "/somewhere/configs/a=b");
  EXPECT_EQ(parsed(kSmallest, {"client.novels.name=true"}).clients[0].name, "true");
}

TEST(Settings, TheLastOfEqualOnesCounts) {
  EXPECT_EQ(parsed(kSmallest, {"run.seed=2", "run.seed=3"}).run.seed, 3U);
}

TEST(Settings, ReplaceTheFilesValueBeforeItIsChecked) {
  EXPECT_EQ(with("[prune]\nsparsity = 7\n", {"prune.sparsity=0.5"}).prune.sparsity, 0.5);
}

TEST(Settings, AddressEntriesByTheirNameInTheFile) {
  const std::string more =
      "[[client]]\nname = \"dotted.name\"\ntokens = \"x\"\n[[evaluation]]\nname = \"e\"\ntokens = \"t\"\n";
  const Config config =
      with(more, {"client.novels.name=renamed", "client.novels.samples=3", "client.dotted.name.resources=0.5",
                  "client.dotted.name.tokens=[\"a\",\"b\"]", "evaluation.e.sequence_length=64"});
  EXPECT_EQ(config.clients[0].name, "renamed");
  EXPECT_EQ(config.clients[0].samples, 3);
  EXPECT_EQ(config.clients[1].resources, 0.5);
  EXPECT_THAT(config.clients[1].tokens, ElementsAre(std::filesystem::path("/somewhere/configs/a"),
                                                    std::filesystem::path("/somewhere/configs/b")));
  EXPECT_EQ(config.evaluations[0].sequence_length, 64);
}

TEST(Settings, ProblemsNameTheSetting) {
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"prune.sparsity=2", "--set prune.sparsity=2: prune.sparsity: found 2, expected a number from 0 to 1"},
      {"prune.sparsity=half",
       "--set prune.sparsity=half: prune.sparsity: found the string \"half\", expected a number"},
      {"prune.sparsty=0.5",
       "--set prune.sparsty=0.5: unknown key 'prune.sparsty'; did you mean 'prune.sparsity'?"},
      {"sparsity=0.5", "--set sparsity=0.5: unknown key 'sparsity'; did you mean 'prune.sparsity'?"},
      {"prun.sparsity=0.5", "--set prun.sparsity=0.5: unknown table 'prun'; did you mean 'prune'?"},
      {"client.novel.samples=3",
       "--set client.novel.samples=3: no client is named 'novel'; did you mean 'novels'?"},
      {"client.qqqqqqqq.samples=3", "no client is named 'qqqqqqqq'; there are: novels"},
      {"client.samples=3", "--set client.samples=3: expected client.NAME.KEY=value, NAME one of: novels"},
      {"prune.sparsity", "--set prune.sparsity: expected key=value"},
      {"=1", "--set =1: expected key=value"},
      {"", "--set : expected key=value"},
      {"run.dir=\"open", "--set run.dir=\"open: Error"},
      {"client.novels.tokens=[\"a\"", "--set client.novels.tokens=[\"a\": Error"},
      {"prune.sparsity=", "prune.sparsity: found the string \"\", expected a number"},
      {"run.dir=\xff", "--set run.dir=\xff: Encountered invalid utf-8"},
  };
  for (const auto& [setting, start] : rows) {
    const std::string message = refusal(kSmallest, {setting});
    EXPECT_THAT(message, HasSubstr(start)) << setting;
    EXPECT_THAT(message, StartsWith("--set ")) << setting;
  }
}

TEST(Settings, CannotSmuggleInFurtherKeys) {
  EXPECT_THAT(refusal(kSmallest, {"run.seed=1\nthreads = 4"}), HasSubstr("run.seed: found the string"));
}

}  // namespace
}  // namespace fedspallm::config::test
