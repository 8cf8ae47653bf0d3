// SPDX-License-Identifier: Apache-2.0
// inspect: recounts from the files and finds each kind of difference.
#include "fedspallm/store/inspect.hpp"

#include "fedspallm/data/hdf5.hpp"

#include <nlohmann/json.hpp>

#include "store_support.hpp"
#include <functional>

namespace fedspallm::store::test {
namespace {

using model::ModelDirectory;

class Inspect : public testing::Test {
 protected:
  void SetUp() override {
    fedspallm::test::write_tiny_model(folder.path() / "in", fedspallm::test::kTinyLlama);
  }

  /// A finished run of all blocks, with model/ and one client.
  void write_run(const std::function<void(BlockRecord&)>& change = [](BlockRecord&) {}) {
    const ModelDirectory model(folder.path() / "in");
    BlockStore store = BlockStore::of_run(paths);
    store.clear();
    std::map<std::int64_t, BlockRecord> blocks;
    for (std::uint32_t block = 0; block < 2; ++block) {
      BlockRecord& record = blocks[block] = pruned_block(model, block, DType::f32);
      if (block == 1) change(record);
      store.write_block(record);
    }
    write_model(model, paths.model(), false, source_of(blocks));
    store.write_links(provenance_of(model), true);
  }
  void expect_problem(const std::string& fragment) {
    const Inspection inspection = inspect(paths.dir);
    EXPECT_THAT(inspection.problems, testing::Contains(testing::HasSubstr(fragment)));
    EXPECT_FALSE(nlohmann::json::parse(to_json(inspection))["ok"].get<bool>());
    EXPECT_THAT(to_text(inspection), testing::HasSubstr(fragment));
  }

  TemporaryFolder folder;
  RunPaths paths{folder.path() / "run"};
};

TEST_F(Inspect, FindsNothingWrongWithAGoodRunAndCountsItsZeros) {
  write_run();
  const Inspection inspection = inspect(paths.dir);
  EXPECT_EQ(inspection.problems, std::vector<std::string>{});
  EXPECT_TRUE(inspection.complete);
  EXPECT_EQ(inspection.kind, "run");
  ASSERT_EQ(inspection.matrices.size(), 14U);
  std::int64_t dropped = 0;
  std::int64_t size = 0;
  for (const InspectedMatrix& matrix : inspection.matrices) {
    EXPECT_EQ(matrix.dropped, (matrix.rows * matrix.columns + 2) / 3);
    EXPECT_EQ(matrix.target, matrix.dropped);
    EXPECT_GE(matrix.zeros, matrix.dropped);
    ASSERT_EQ(matrix.votes.size(), 4U);
    EXPECT_EQ(matrix.votes[3], matrix.dropped);
    EXPECT_EQ(matrix.votes[0] + matrix.votes[1] + matrix.votes[2] + matrix.votes[3],
              matrix.rows * matrix.columns);
    dropped += matrix.dropped;
    size += matrix.rows * matrix.columns;
  }
  EXPECT_DOUBLE_EQ(inspection.sparsity, static_cast<double>(dropped) / static_cast<double>(size));
  EXPECT_EQ(inspection.clients, (std::vector<std::string>{"novels", "python docs", "jargon"}));
}

TEST_F(Inspect, PrintsTheDocumentedJson) {
  write_run();
  const auto json = nlohmann::json::parse(to_json(inspect(paths.run_file())));
  EXPECT_EQ(json["format_version"], 1);
  EXPECT_EQ(json["kind"], "run");
  EXPECT_EQ(json["complete"], true);
  EXPECT_EQ(json["ok"], true);
  EXPECT_TRUE(json["problems"].empty());
  EXPECT_EQ(json["provenance"]["git"], "abc");
  EXPECT_EQ(json["warnings"][0], "a warning");
  const auto& matrix = json["matrices"][8];
  EXPECT_EQ(matrix["name"], "model.layers.1.self_attn.k_proj.weight");
  EXPECT_EQ(matrix["block"], 1);
  EXPECT_EQ(matrix["rows"], 4);
  EXPECT_EQ(matrix["columns"], 8);
  EXPECT_EQ(matrix["dropped"], 11);
  EXPECT_EQ(matrix["zeros"], 11);
  EXPECT_EQ(matrix["target"], 11);
  EXPECT_EQ(matrix["votes"].size(), 4U);
}

TEST_F(Inspect, PrintsATablePerBlockAndRoleWithTotals) {
  write_run();
  const std::string text = to_text(inspect(paths.dir));
  for (const char* part : {"block", "q_proj", "down_proj", "all", "total", "33.333 %",
                           "novels, python docs, jargon", "no differences"})
    EXPECT_THAT(text, testing::HasSubstr(part));
}

TEST_F(Inspect, CountsTheZerosOfAModelDirectory) {
  write_run();
  const Inspection run = inspect(paths.dir);
  const Inspection model = inspect(paths.model());
  EXPECT_EQ(model.kind, "model");
  ASSERT_EQ(model.matrices.size(), run.matrices.size());
  for (std::size_t i = 0; i < run.matrices.size(); ++i) {
    EXPECT_EQ(model.matrices[i].name, run.matrices[i].name);
    EXPECT_EQ(model.matrices[i].zeros, run.matrices[i].zeros);
    EXPECT_TRUE(model.matrices[i].votes.empty());
    EXPECT_EQ(model.matrices[i].target, -1);
  }
  EXPECT_EQ(inspect(folder.path() / "in").sparsity, 0.0);
}

TEST_F(Inspect, CountsNegativeZerosAsZeros) {
  auto tensors = fedspallm::test::tiny_tensors(fedspallm::test::kTinyLlama);
  for (auto& tensor : tensors)
    if (tensor.name.ends_with("0.self_attn.q_proj.weight")) tensor.values[3] = -0.0F;
  fedspallm::test::write_tiny_model(folder.path() / "in", fedspallm::test::kTinyLlama, tensors);
  EXPECT_EQ(inspect(folder.path() / "in").matrices[0].zeros, 1);
}

TEST_F(Inspect, AnUnfinishedRunIsNoProblemByItself) {
  const ModelDirectory model(folder.path() / "in");
  write_run();
  BlockStore store = BlockStore::of_run(paths);
  store.clear();  // an older model/ stands beside the new run
  store.write_block(pruned_block(model, 0, DType::f32, 2));
  store.write_links(provenance_of(model), false);
  const Inspection inspection = inspect(paths.dir);
  EXPECT_FALSE(inspection.complete);
  EXPECT_EQ(inspection.problems, std::vector<std::string>{});
  EXPECT_EQ(inspection.matrices.size(), 7U);
  EXPECT_THAT(to_text(inspection), testing::HasSubstr("incomplete"));
  fs::remove(paths.run_file());
  EXPECT_FALSE(inspect(paths.dir).complete);
}

TEST_F(Inspect, ShowsTheNewestRoundOfEachBlock) {
  const ModelDirectory model(folder.path() / "in");
  BlockStore store = BlockStore::of_run(paths);
  store.write_block(pruned_block(model, 0, DType::f32, 2));
  BlockRecord second = pruned_block(model, 0, DType::f32, 5);
  second.round = 2;
  store.write_block(second);
  const Inspection inspection = inspect(paths.dir);
  ASSERT_EQ(inspection.matrices.size(), 7U);
  EXPECT_EQ(inspection.matrices[0].votes.size(), 6U);
}

TEST_F(Inspect, CountsUnprunedAndUnwrittenBlocksIntoThePrunedSet) {
  const ModelDirectory model(folder.path() / "in");
  BlockStore store = BlockStore::of_run(paths);
  store.write_block(pruned_block(model, 0, DType::f32));
  write_model(model, paths.model(), false, source_of({{0, pruned_block(model, 0, DType::f32)}}));
  store.write_links(provenance_of(model), true);
  const Inspection unwritten = inspect(paths.dir);
  EXPECT_EQ(unwritten.problems, std::vector<std::string>{});
  ASSERT_EQ(unwritten.matrices.size(), 14U);
  EXPECT_EQ(unwritten.matrices[13].dropped, 0);
  BlockRecord dense{.round = 1, .block = 1, .matrices = {}};
  for (const auto& matrix : model.architecture().matrices) {
    MatrixRecord& record = dense.matrices.emplace_back();
    record.name = model.matrix_name(1, dense.matrices.size() - 1);
    record.pruned = false;
    record.matrix.rows = matrix.rows;
    record.matrix.cols = matrix.cols;
  }
  store.write_block(dense);
  const Inspection recorded = inspect(paths.dir);
  EXPECT_EQ(recorded.problems, std::vector<std::string>{});
  EXPECT_EQ(recorded.sparsity, unwritten.sparsity);
}

TEST_F(Inspect, ReadsOneClientsFile) {
  const ModelDirectory model(folder.path() / "in");
  for (const std::string name : {"novels", "a.b"}) {
    BlockStore store = BlockStore::of_client(paths, name);
    BlockRecord record = pruned_block(model, 1, DType::f32);
    for (MatrixRecord& matrix : record.matrices) {
      matrix.votes.clear();
      matrix.histogram.clear();
      matrix.common_zeros = 0;
    }
    store.write_block(record);
    store.write_links(provenance_of(model), true);
    const Inspection inspection = inspect(paths.clients() / (name + ".h5"));
    EXPECT_EQ(inspection.problems, std::vector<std::string>{});
    EXPECT_TRUE(inspection.complete);
    EXPECT_EQ(inspection.matrices.size(), 7U);
    EXPECT_TRUE(inspection.matrices[0].votes.empty());
  }
}

TEST_F(Inspect, NamesWhatItCannotInspect) {
  expect_error<DataError>([&] { (void)inspect(folder.path() / "none"); },
                          {"none", "no such file", "expected run.h5"});
  expect_error<DataError>([&] { (void)inspect(folder.path()); }, {"neither run.h5 nor config.json"});
  expect_error<DataError>([&] { (void)inspect(folder.path() / "in" / "model.safetensors"); },
                          {"not a run file"});
  write_run();
  write_file(paths.manifest(), "{");
  expect_error<DataError>([&] { (void)inspect(paths.dir); }, {"manifest.json", "damaged"});
}

// ---------------------------------------------------------------- differences in the record

TEST_F(Inspect, FindsAWrongTarget) {
  write_run([](BlockRecord& record) { ++record.matrices[2].target; });
  expect_problem(
      "model.layers.1.self_attn.v_proj.weight: dropped weights against target: found 11, expected 12");
}

TEST_F(Inspect, AcceptsMoreCommonZerosThanTheTarget) {
  write_run([](BlockRecord& record) { record.matrices[2].target -= 5; });
  EXPECT_EQ(inspect(paths.dir).problems, std::vector<std::string>{});
}

TEST_F(Inspect, FindsAHistogramThatIsNotThatOfTheVotes) {
  write_run([](BlockRecord& record) {
    --record.matrices[0].histogram[1];
    ++record.matrices[0].histogram[2];
  });
  expect_problem("model.layers.1.self_attn.q_proj.weight: weights with 1 votes, votes against histogram");
}

TEST_F(Inspect, FindsVotesOfMoreClientsThanThereAre) {
  write_run([](BlockRecord& record) { record.matrices[0].votes[1] = 9; });
  expect_problem("more votes than clients: found 1, expected 0");
}

TEST_F(Inspect, FindsAKeptWeightThatEveryClientDropped) {
  write_run([](BlockRecord& record) { record.matrices[0].votes[1] = 3; });
  expect_problem("kept although every client dropped them: found 1, expected 0");
}

TEST_F(Inspect, FindsAWrongNumberOfCommonZerosOrExpandedWeights) {
  write_run([](BlockRecord& record) { ++record.matrices[0].common_zeros; });
  expect_problem("weights that every client dropped, votes against record");
  write_run([](BlockRecord& record) { ++record.matrices[0].expanded; });
  expect_problem("mask against common zeros + expanded");
}

TEST_F(Inspect, FindsExpansionThatDidNotTakeTheMostVotedFirst) {
  // The first weight (dropped) gets no votes, although others with votes are kept.
  write_run([](BlockRecord& record) {
    MatrixRecord& matrix = record.matrices[0];
    matrix.votes[0] = 0;
    --matrix.histogram[3];
    ++matrix.histogram[0];
    matrix.clients[0].kept += 3;
    --matrix.common_zeros;
    ++matrix.expanded;
  });
  expect_problem("mask expansion: a weight with 2 votes is kept while one with 0 is dropped");
}

TEST_F(Inspect, FindsClientsWhoseCountsAreNotTheVotes) {
  write_run([](BlockRecord& record) { ++record.matrices[0].clients[1].kept; });
  expect_problem("sum of votes against what the clients dropped");
  write_run([](BlockRecord& record) { record.matrices[0].clients.pop_back(); });
  expect_problem("clients in the record, list against histogram: found 2, expected 3");
}

TEST_F(Inspect, FindsAWrongCountOfKeptZeros) {
  write_run([](BlockRecord& record) { ++record.matrices[0].kept_zeros; });
  expect_problem("kept weights with value 0, values against record: found 0, expected 1");
}

TEST_F(Inspect, FindsAMissingHistogramOrMissingVotes) {
  write_run([](BlockRecord& record) { record.matrices[0].histogram.clear(); });
  expect_problem("no histogram");
  write_run([](BlockRecord& record) { record.matrices[0].votes.clear(); });
  expect_problem("number of votes: found 0, expected 64");
}

MatrixRecord structured(const ModelDirectory& model, std::size_t index, int keep, int group) {
  MatrixRecord record = consistent_record(model.matrix_name(1, index),
                                          prune_tensor(model, 1, index, DType::f32, keep, group), 3);
  record.keep = keep;
  record.group = group;
  return record;
}

TEST_F(Inspect, AcceptsGroupsThatKeepExactlyNOfM) {
  const ModelDirectory model(folder.path() / "in");
  for (const auto& [keep, group] : {std::pair{2, 4}, std::pair{1, 2}, std::pair{4, 8}, std::pair{1, 4}}) {
    // down_proj has 12 columns: groups of 8 do not fit there.
    write_run([&](BlockRecord& record) { record.matrices[3] = structured(model, 3, keep, group); });
    EXPECT_EQ(inspect(paths.dir).problems, std::vector<std::string>{}) << keep << ":" << group;
  }
}

TEST_F(Inspect, FindsGroupsThatKeepAnotherNumber) {
  const ModelDirectory model(folder.path() / "in");
  write_run([&](BlockRecord& record) {
    record.matrices[6] =
        consistent_record(model.matrix_name(1, 6), prune_tensor(model, 1, 6, DType::f32, 6, 12), 3);
    record.matrices[6].keep = 2;
    record.matrices[6].group = 4;
  });
  // Each row of 12 keeps 6 in front: groups of 4, 2, 0.
  expect_problem(
      "model.layers.1.mlp.down_proj.weight: 2:4 pattern: 16 groups differ; the first, at row 0, column 0: "
      "found 4 kept, expected 2");
}

TEST_F(Inspect, FindsPatternsThatCannotBe) {
  for (const auto& [keep, group] : {std::pair{2, 5}, std::pair{4, 4}, std::pair{0, 4}, std::pair{2, 80}}) {
    write_run([&](BlockRecord& record) {
      record.matrices[6].keep = keep;
      record.matrices[6].group = group;
    });
    expect_problem(fmt::format("pattern {}:{} for 12 columns", keep, group));
  }
}

// ---------------------------------------------------------------- differences in files

TEST_F(Inspect, FindsDamagedBlockFilesAndGoesOnWithTheOthers) {
  write_run();
  flip_bit(paths.blocks() / "r01-b0000.h5", 3000);
  expect_problem("r01-b0000.h5: damaged");
  EXPECT_EQ(inspect(paths.dir).matrices.size(), 7U);
}

TEST_F(Inspect, FindsADamagedRunFile) {
  write_run();
  flip_bit(paths.run_file(), 1000);
  expect_problem("run.h5: damaged");
}

TEST_F(Inspect, FindsCountsThatAreNotThoseOfTheMask) {
  write_run();
  // Such a file can only come from a defect or another program: write it past BlockStore's own checks.
  data::hdf5::File file = data::hdf5::File::create(paths.blocks() / "r01-b0001.h5");
  const auto& root = file.root();
  root.write_integer("format_version", 1);
  root.write_string("kind", "fedspallm block");
  for (const auto& [name, value] : {std::pair{"round", 1}, std::pair{"block", 1}, std::pair{"matrices", 1}})
    root.write_integer(name, value);
  const auto group = root.create_group("w");
  for (const auto& [name, value] :
       {std::pair{"format_version", 1}, std::pair{"index", 0}, std::pair{"pruned", 1}, std::pair{"rows", 3},
        std::pair{"cols", 5}, std::pair{"kept", 12}, std::pair{"target", 1}, std::pair{"expanded", 0},
        std::pair{"common_zeros", 1}, std::pair{"kept_zeros", 0}, std::pair{"N", 0}, std::pair{"M", 0}})
    group.write_integer(name, value);
  group.write_string("name", "model.layers.1.self_attn.q_proj.weight");
  group.write_string("dtype", "float32");
  group.write("mask", std::vector<std::uint8_t>{0xFE, 0x7F});
  group.write("values", std::vector<float>(13, 1.0F));
  const auto clients = group.create_group("clients");
  clients.write("client", std::vector<std::uint32_t>{});
  for (const char* name : {"kept", "dead_columns", "kept_zeros"})
    clients.write(name, std::vector<std::int64_t>{});
  for (const char* name : {"error", "seconds"}) clients.write(name, std::vector<double>{});
  clients.write("damping", std::vector<float>{});
  clients.write("damping_steps", std::vector<std::int32_t>{});
  file.close();
  restamp(paths, 1, 1);
  expect_problem("kept weights, mask against record: found 14, expected 12");
  expect_problem("number of values against mask: found 13, expected 14");
  expect_problem("found shape [8, 8], expected 3 x 5");
}

TEST_F(Inspect, FindsAModelThatIsNotTheRuns) {
  write_run();
  const ModelDirectory dense(folder.path() / "in");
  write_model(dense, paths.model(), false, nothing_pruned());
  expect_problem("model.layers.0.self_attn.q_proj.weight: found 0 zeros, expected 22");
  std::map<std::int64_t, BlockRecord> blocks = {{0, pruned_block(dense, 0, DType::f32)},
                                                {1, pruned_block(dense, 1, DType::f32)}};
  blocks[1].matrices[4].matrix.values[4 * 6 + 2] ^= std::byte{1};  // a kept weight, by its last bit
  write_model(dense, paths.model(), false, source_of(blocks));
  const Inspection inspection = inspect(paths.dir);
  // Every third weight is dropped, from the first on: the kept weight number 6 is weight 10, in row 1 of 8
  // columns.
  EXPECT_THAT(
      inspection.problems,
      testing::ElementsAre(testing::HasSubstr(
          "model.layers.1.mlp.gate_proj.weight: differs from the run's record, first at row 1, column 2")));
}

TEST_F(Inspect, FindsAModelThatCannotBeRead) {
  write_run();
  write_file(paths.model() / "model.safetensors", "torn");
  expect_problem("model.safetensors");
}

}  // namespace
}  // namespace fedspallm::store::test
