// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "support/support.hpp"
#include "valid.hpp"
#include <fstream>

namespace fedspallm::config::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Parse, GivesEveryDefaultOfTheDesign) {
  const Config config = parsed(kSmallest);
  EXPECT_EQ(config.model.dtype, ModelDType::stored);
  EXPECT_EQ(config.run.seed, 1U);
  EXPECT_EQ(config.run.backend, BackendKind::automatic);
  EXPECT_EQ(config.run.threads, 0);
  EXPECT_FALSE(config.run.keep_clients);
  EXPECT_EQ(config.prune.method, Method::sparsegpt);
  EXPECT_EQ(config.prune.sparsity, 0.5);
  EXPECT_FALSE(config.prune.pattern.structured());
  EXPECT_EQ(config.prune.block_size, 128);
  EXPECT_EQ(config.prune.damping, 0.01);
  EXPECT_EQ(config.prune.order, Order::staged);
  EXPECT_EQ(config.prune.count, Count::exact);
  EXPECT_EQ(config.calibration.samples, 16);
  EXPECT_EQ(config.calibration.sequence_length, 512);
  EXPECT_EQ(config.calibration.sampling, Sampling::random);
  EXPECT_EQ(config.federation.rounds, 1);
  EXPECT_EQ(config.federation.aggregation, Aggregation::l0);
  EXPECT_TRUE(config.federation.mask_expansion);
  EXPECT_EQ(config.federation.tie, Tie::score);
  EXPECT_EQ(config.federation.transport, TransportKind::automatic);
  EXPECT_EQ(config.federation.layer_sampling, LayerSampling::none);
  EXPECT_EQ(config.federation.coverage, Coverage::required);
  EXPECT_EQ(config.federation.chunk_bytes, 1 << 20);
  EXPECT_FALSE(config.report.standalone);
  ASSERT_EQ(config.clients.size(), 1U);
  EXPECT_EQ(config.clients[0].resources, 1.0);
  EXPECT_FALSE(config.clients[0].samples.has_value());
  EXPECT_FALSE(config.clients[0].rank.has_value());
  EXPECT_TRUE(config.evaluations.empty());
  const Config evaluated = with("[[evaluation]]\nname = \"x\"\ntokens = \"x.h5\"\n");
  EXPECT_FALSE(evaluated.evaluations.at(0).samples.has_value());
  EXPECT_EQ(evaluated.evaluations.at(0).sequence_length, 512);
}

TEST(Parse, ReadsEveryKey) {
  const Config config = parsed(R"(
[model]
path = "m"
dtype = "float32"
[run]
dir = "r"
seed = 9223372036854775807
backend = "reference"
threads = 3
keep_clients = true
[prune]
method = "wanda"
sparsity = 0.25
pattern = "unstructured"
block_size = 64
damping = 0.5
order = "block"
count = "exact"
[calibration]
samples = 3
sequence_length = 7
sampling = "sequential"
[federation]
rounds = 4
aggregation = "mean"
mask_expansion = false
tie = "index"
transport = "gather"
layer_sampling = "resources"
coverage = "warn"
chunk_bytes = 65536
[report]
standalone = true
[[client]]
name = "one"
tokens = ["a.h5", "b.h5"]
resources = 0.25
samples = 5
rank = 2
[[client]]
name = "two"
tokens = "c.h5"
[[evaluation]]
name = "one"
tokens = "t.h5"
samples = 9
sequence_length = 32
)");
  EXPECT_EQ(config.model.dtype, ModelDType::float32);
  EXPECT_EQ(config.run.seed, 9223372036854775807U);
  EXPECT_EQ(config.run.backend, BackendKind::reference);
  EXPECT_EQ(config.run.threads, 3);
  EXPECT_TRUE(config.run.keep_clients);
  EXPECT_EQ(config.prune.method, Method::wanda);
  EXPECT_EQ(config.prune.sparsity, 0.25);
  EXPECT_EQ(config.prune.block_size, 64);
  EXPECT_EQ(config.prune.damping, 0.5);
  EXPECT_EQ(config.prune.order, Order::block);
  EXPECT_EQ(config.calibration, (Calibration{3, 7, Sampling::sequential}));
  EXPECT_EQ(config.federation.rounds, 4);
  EXPECT_EQ(config.federation.aggregation, Aggregation::mean);
  EXPECT_FALSE(config.federation.mask_expansion);
  EXPECT_EQ(config.federation.tie, Tie::index);
  EXPECT_EQ(config.federation.transport, TransportKind::gather);
  EXPECT_EQ(config.federation.layer_sampling, LayerSampling::resources);
  EXPECT_EQ(config.federation.coverage, Coverage::warn);
  EXPECT_EQ(config.federation.chunk_bytes, 65536);
  EXPECT_TRUE(config.report.standalone);
  ASSERT_EQ(config.clients.size(), 2U);
  EXPECT_EQ(config.clients[0].resources, 0.25);
  EXPECT_EQ(config.clients[0].samples, 5);
  EXPECT_EQ(config.clients[0].rank, 2);
  EXPECT_EQ(config.clients[1].name, "two");
  ASSERT_EQ(config.evaluations.size(), 1U);
  EXPECT_EQ(config.evaluations[0].samples, 9);
  EXPECT_EQ(config.evaluations[0].sequence_length, 32);
}

TEST(Parse, ResolvesRelativePathsAgainstTheConfigsFolder) {
  const Config config = parsed(
      "model.path = \"../models/tiny/\"\nrun.dir = \"/absolute/./run\"\n"
      "[[client]]\nname = \"a\"\ntokens = [\"x.h5\", \"/y.h5\"]\n"
      "[[evaluation]]\nname = \"a\"\ntokens = \"./t.h5\"\n");
  EXPECT_EQ(config.file, "/somewhere/configs/run.toml");
  EXPECT_EQ(config.model.path, "/somewhere/models/tiny");
  EXPECT_EQ(config.run.dir, "/absolute/run");
  EXPECT_THAT(config.clients[0].tokens,
              ElementsAre(std::filesystem::path("/somewhere/configs/x.h5"), std::filesystem::path("/y.h5")));
  EXPECT_EQ(config.evaluations[0].tokens, "/somewhere/configs/t.h5");
}

TEST(Parse, MakesARelativeConfigFileAbsolute) {
  const Config config = parse(kSmallest, "here/run.toml");
  EXPECT_EQ(config.file, std::filesystem::current_path() / "here/run.toml");
  EXPECT_EQ(config.model.path, std::filesystem::current_path() / "here/model");
}

TEST(Parse, KeepsTheRootFolderAsAPath) {
  EXPECT_EQ(parsed(kSmallest, {"run.dir=/"}).run.dir, "/");
}

TEST(Parse, DerivesTheSparsityOfAPattern) {
  EXPECT_EQ(with("[prune]\npattern = \"2:4\"\n").prune.sparsity, 0.5);
  EXPECT_EQ(with("[prune]\npattern = \"1:4\"\n").prune.sparsity, 0.75);
  EXPECT_EQ(with("[prune]\npattern = \"1:2\"\nsparsity = 0.5\n").prune.sparsity, 0.5);
  const Config thirds = with("[prune]\npattern = \"1:3\"\nblock_size = 96\nsparsity = 0.6666667\n");
  EXPECT_EQ(thirds.prune.sparsity, 2.0 / 3.0);
  EXPECT_EQ(thirds.prune.pattern, (Pattern{1, 3}));
}

TEST(Parse, TakesTheEndsOfTheRanges) {
  EXPECT_EQ(with("[prune]\nsparsity = 0\n").prune.sparsity, 0.0);
  EXPECT_EQ(with("[prune]\nsparsity = 1\n").prune.sparsity, 1.0);
  EXPECT_FALSE(std::signbit(with("[prune]\nsparsity = -0.0\n").prune.sparsity));
  EXPECT_EQ(with("[calibration]\nsamples = 1\nsequence_length = 1\n").calibration.samples, 1);
  EXPECT_EQ(parsed(kSmallest, {"run.seed=0"}).run.seed, 0U);
}

TEST(Parse, StandaloneReportsAndAggregationNoneKeepTheClients) {
  EXPECT_TRUE(with("[report]\nstandalone = true\n").run.keep_clients);
  EXPECT_TRUE(with("[federation]\naggregation = \"none\"\n").run.keep_clients);
  EXPECT_FALSE(with("[report]\nstandalone = false\n").run.keep_clients);
}

TEST(Parse, NamesLineAndColumnOfASyntaxError) {
  EXPECT_THAT(refusal("[model]\npath = \n"), StartsWith("/somewhere/configs/run.toml:2:8: "));
  EXPECT_THAT(refusal("[model]\npath = \"x\"\npath = \"y\"\n"), StartsWith("/somewhere/configs/run.toml:3:"));
  EXPECT_THAT(refusal("a = \"\xff\"\n"), StartsWith("/somewhere/configs/run.toml:1:"));
}

TEST(Load, ReadsAFileAndNamesItAsGiven) {
  const fedspallm::test::TemporaryFolder folder;
  const auto file = folder.path() / "run.toml";
  std::ofstream(file) << kSmallest;
  EXPECT_EQ(load(file).run.dir, folder.path() / "run");
  std::ofstream(file) << "[model]\n";
  try {
    (void)load(file);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr(file.string() + ":1: missing key 'model.path'"));
  }
}

TEST(Load, RefusesWhatIsNoReadableFile) {
  const fedspallm::test::TemporaryFolder folder;
  for (const auto& file : {folder.path() / "absent.toml", folder.path()}) {
    try {
      (void)load(file);
      FAIL() << file;
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), StartsWith(file.string() + ": cannot be read: "));
    }
  }
}

TEST(Load, RefusesAFileTooLargeToBeAConfiguration) {
  const fedspallm::test::TemporaryFolder folder;
  const auto file = folder.path() / "large.toml";
  std::ofstream(file) << "x";
  std::filesystem::resize_file(file, (std::uintmax_t{16} << 20) + 1);
  EXPECT_THROW((void)load(file), ConfigError);
}

TEST(Load, AcceptsTheProjectsOwnConfigurations) {
  int found = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(FEDSPALLM_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    EXPECT_NO_THROW((void)load(entry.path())) << entry.path();
    ++found;
  }
  EXPECT_GE(found, 1);
}

TEST(Schedule, RisesToExactlyTheTarget) {
  Config config = with("[prune]\nsparsity = 0.7\n[federation]\nrounds = 3\n");
  EXPECT_DOUBLE_EQ(sparsity_of_round(config, 1), 0.7 * (1 - 8.0 / 27));
  EXPECT_DOUBLE_EQ(sparsity_of_round(config, 2), 0.7 * (1 - 1.0 / 27));
  EXPECT_EQ(sparsity_of_round(config, 3), 0.7);
  config.federation.rounds = 1;
  EXPECT_EQ(sparsity_of_round(config, 1), 0.7);
}

TEST(Schedule, RefusesRoundsThatDoNotExist) {
  const Config config = parsed(kSmallest);
  EXPECT_THROW((void)sparsity_of_round(config, 0), LogicError);
  EXPECT_THROW((void)sparsity_of_round(config, 2), LogicError);
}

}  // namespace
}  // namespace fedspallm::config::test
