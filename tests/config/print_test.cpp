// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "valid.hpp"
#include <algorithm>

namespace fedspallm::config::test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Config full() {
  Config config;
  config.file = kFile;
  config.model = {"/m/\"quoted\" \\ path", ModelDType::float32};
  config.run = {"/r", 123456789012345678U, BackendKind::cuda, 7, true};
  config.run.products = Products::bf16;
  config.prune = {Method::sparsegpt, 0.1 + 0.2, {}, 256, 1e-7, Order::block, Count::published};
  config.calibration = {3, 5, Sampling::sequential};
  config.federation = {.rounds = 3,
                       .aggregation = Aggregation::mean,
                       .mask_expansion = false,
                       .tie = Tie::index,
                       .transport = TransportKind::gather,
                       .topology = TopologyKind::owners,
                       .layer_sampling = LayerSampling::resources,
                       .coverage = Coverage::warn,
                       .chunk_bytes = 1 << 16};
  config.report.standalone = true;
  config.clients = {{"\xc3\xa4 b", {"/a", "/b c"}, 1.0 / 3.0, 4, 0},
                    {"two", {"/t"}, 1.0, std::nullopt, std::nullopt}};
  config.evaluations = {{"\"x\"", "/e", 9, 33}, {"y", "/f", std::nullopt, 2}};
  config.simulate = Simulate{.clients = 12,
                             .shape = ModelShape::llama2_7b,
                             .placement = Placement::workers,
                             .checkpoint = true,
                             .fit = {2, 4},
                             .held_out = {3},
                             .spread = 0.1};
  return config;
}

TEST(Print, ReadsBackToAnEqualConfig) {
  const Config config = full();
  const Config again = parse(to_toml(config), kFile);
  EXPECT_EQ(again, config);
  EXPECT_EQ(to_toml(again), to_toml(config));
}

TEST(Print, ReadsBackToAnEqualConfigFromAnotherFolder) {
  Config again = parse(to_toml(full()), "/elsewhere/config.toml");
  again.file = kFile;
  EXPECT_EQ(again, full());
}

TEST(Print, ReadsBackDefaultsPatternsAndKeptClients) {
  for (const char* lines :
       {"", "[prune]\npattern = \"1:3\"\nblock_size = 96\n", "[federation]\naggregation = \"none\"\n",
        "[prune]\nsparsity = 0\n", "[prune]\nsparsity = 1\n"}) {
    const Config config = with(lines);
    EXPECT_EQ(parse(to_toml(config), kFile), config) << lines;
  }
}

TEST(Print, ASimulationNeedsNoModelNoFolderAndNoClients) {
  const Config config = parse("[simulate]\nshape = \"llama-2-70b\"\nfit = []\n", kFile);
  EXPECT_TRUE(config.clients.empty());
  EXPECT_EQ(config.simulate->shape, ModelShape::llama2_70b);
  EXPECT_EQ(config.simulate->clients, 100);
  EXPECT_EQ(parse(to_toml(config), kFile), config);
  EXPECT_THROW(check_prunable(config), ConfigError);
  EXPECT_NO_THROW(check_prunable(parsed(kSmallest)));
  EXPECT_FALSE(parsed(kSmallest).simulate.has_value());
  EXPECT_EQ(parsed(kSmallest, {"simulate.clients=7"}).simulate->clients, 7);
}

TEST(Print, DoublesKeepTheirBits) {
  for (const double sparsity : {0.0, 1.0, 0.5, 0.1, 1.0 / 3.0, 5e-324, 1e-300, 0.9999999999999999}) {
    Config config = parsed(kSmallest);
    config.prune.sparsity = sparsity;
    EXPECT_EQ(parse(to_toml(config), kFile).prune.sparsity, sparsity);
  }
  EXPECT_THAT(to_toml(parsed(kSmallest)), HasSubstr("sparsity = 0.5\n"));
}

TEST(Print, HoldsEveryKeyThatIsSet) {
  const std::string text = to_toml(full());
  for (const std::string& name : known_keys())
    EXPECT_THAT(text, HasSubstr("\n" + name.substr(name.rfind('.') + 1) + " = ")) << name;
  EXPECT_THAT(to_toml(parsed(kSmallest)), Not(HasSubstr("rank"))) << "unset keys stay unset";
}

TEST(Names, EveryKeyAndEnumeratorHasOne) {
  EXPECT_THAT(known_keys(), Contains("prune.sparsity"));
  EXPECT_THAT(known_keys(), Contains("client.NAME.tokens"));
  EXPECT_EQ(known_keys().size(), 59U);
  EXPECT_EQ(name_of(BackendKind::automatic), "auto");
  EXPECT_EQ(name_of(BackendKind::reference), "reference");
  EXPECT_EQ(name_of(Method::random), "random");
  EXPECT_EQ(name_of(Order::block), "block");
  EXPECT_EQ(name_of(Count::published), "published");
  EXPECT_EQ(name_of(Sampling::sequential), "sequential");
  EXPECT_EQ(name_of(Aggregation::none), "none");
  EXPECT_EQ(name_of(Tie::index), "index");
  EXPECT_EQ(name_of(TransportKind::nccl), "nccl");
  EXPECT_EQ(name_of(TopologyKind::owners), "owners");
  EXPECT_EQ(name_of(TopologyKind::nodes), "nodes");
  EXPECT_EQ(name_of(Products::bf16), "bf16");
  EXPECT_EQ(name_of(LayerSampling::resources), "resources");
  EXPECT_EQ(name_of(Coverage::warn), "warn");
  EXPECT_EQ(name_of(ModelDType::float32), "float32");
  EXPECT_EQ(name_of(ModelShape::llama2_7b), "llama-2-7b");
  EXPECT_EQ(name_of(Placement::workers), "workers");
  EXPECT_EQ(name_of(Pattern{}), "unstructured");
  EXPECT_EQ(name_of(Pattern{2, 4}), "2:4");
  EXPECT_THROW((void)name_of(static_cast<Method>(99)), LogicError);
}

TEST(Remarks, TellOfSettingsWithoutEffect) {
  const std::string set = "[[evaluation]]\nname = \"x\"\ntokens = \"t\"\n";
  EXPECT_THAT(remarks(with(set)), IsEmpty());
  EXPECT_THAT(remarks(parsed(kSmallest)), ElementsAre(HasSubstr("no perplexity")));
  EXPECT_THAT(remarks(with("[report]\nstandalone = true\n")),
              ElementsAre(HasSubstr("report.standalone has no effect")));
  EXPECT_THAT(remarks(with("resources = 0.5\n" + set)), ElementsAre(HasSubstr("resources have no effect")));
  EXPECT_THAT(remarks(with(set, {"federation.layer_sampling=resources"})),
              ElementsAre(HasSubstr("resources = 1.0")));
  EXPECT_THAT(remarks(with(set, {"federation.layer_sampling=resources", "client.novels.resources=0.5"})),
              IsEmpty());
  EXPECT_THAT(remarks(with("[[client]]\nname = \"b\"\ntokens = \"novels.h5\"\n" + set)),
              ElementsAre(HasSubstr("calibration text of client 'novels' and again of 'b'")));
  EXPECT_THAT(remarks(with(set, {"prune.method=random"})), ElementsAre(HasSubstr("ties go by magnitude")));
  EXPECT_THAT(remarks(with(set, {"prune.method=random", "federation.tie=index"})), IsEmpty());
  EXPECT_THAT(remarks(with(set, {"prune.method=magnitude"})), IsEmpty())
      << "the default tie is no reason to warn";
}

}  // namespace
}  // namespace fedspallm::config::test
