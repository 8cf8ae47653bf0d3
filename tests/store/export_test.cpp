// SPDX-License-Identifier: Apache-2.0
// export and unpack: the same directory by every way.
#include "store_support.hpp"

namespace fedspallm::store::test {
namespace {

using model::ModelDirectory;

class Export : public testing::Test {
 protected:
  void copy_golden(const std::string& name) {
    copy_model(name, input);
    write_file(input / "tokenizer.json", "{}");
    write_file(input / "empty.txt", "");
  }
  /// A finished run of block 0 (block 1 stays dense) with model/, and the client "novels" with block 1.
  void write_run(bool widen = false) {
    const ModelDirectory model(input);
    BlockStore store = BlockStore::of_run(paths);
    const DType dtype = widen ? DType::f32 : model.matrix_dtype(0, 0);
    const BlockRecord record = pruned_block(model, 0, dtype);
    store.write_block(record);
    write_model(model, paths.model(), widen, source_of({{0, record}}));
    store.write_links(provenance_of(model, widen ? "float32" : "stored"), true);
    BlockStore client = BlockStore::of_client(paths, "novels");
    if (model.architecture().blocks > 1) client.write_block(pruned_block(model, 1, dtype));
    client.write_links(provenance_of(model), true);
  }
  ExportResult run_export(ExportFormat format = ExportFormat::huggingface,
                          const std::optional<std::string>& client = std::nullopt,
                          const std::optional<fs::path>& model = std::nullopt) const {
    return export_run(paths.dir, out, format, client, model);
  }

  TemporaryFolder folder;
  fs::path input = folder.path() / "in";
  fs::path out = folder.path() / "out";
  RunPaths paths{folder.path() / "run"};
};

class ExportOf : public Export, public testing::WithParamInterface<std::tuple<std::string, bool>> {};

TEST_P(ExportOf, GivesTheModelDirectoryOfTheRun) {
  const auto& [name, widen] = GetParam();
  copy_golden(name);
  write_run(widen);
  const ExportResult result = run_export();
  EXPECT_EQ(files_of(out), files_of(paths.model()));
  std::int64_t bytes = 0;
  for (const auto& [file, content] : files_of(out)) bytes += static_cast<std::int64_t>(content.size());
  EXPECT_EQ(result.written_bytes, bytes);
  EXPECT_EQ(result.dense_bytes, bytes);
}

TEST_P(ExportOf, GivesTheModelDirectoryOfTheRunByWayOfTheBitmaskFile) {
  const auto& [name, widen] = GetParam();
  copy_golden(name);
  write_run(widen);
  const ExportResult packed = run_export(ExportFormat::bitmask);
  EXPECT_EQ(names_in(out), (std::vector<std::string>{"model.fspm"}));
  EXPECT_EQ(packed.written_bytes, static_cast<std::int64_t>(fs::file_size(out / "model.fspm")));
  fs::remove_all(input);  // nothing else is needed
  const ExportResult unpacked = unpack_bitmask(out / "model.fspm", std::nullopt, folder.path() / "again");
  EXPECT_EQ(files_of(folder.path() / "again"), files_of(paths.model()));
  EXPECT_EQ(unpacked.dense_bytes, packed.dense_bytes);
  EXPECT_EQ(unpacked.written_bytes, packed.written_bytes);
}

INSTANTIATE_TEST_SUITE_P(Goldens, ExportOf,
                         testing::Combine(testing::Values("fixtures/opt", "goldens/llama-transformers4",
                                                          "goldens/llama-fp16", "goldens/llama-sharded",
                                                          "goldens/opt-projection"),
                                          testing::Bool()),
                         [](const auto& test) {
                           return test_name(std::get<0>(test.param)) +
                                  (std::get<1>(test.param) ? "_widened" : "");
                         });

TEST_F(Export, PacksAPrunedMatrixIntoMaskAndKeptValues) {
  // Large enough that headers do not matter: 2 of 3 weights kept, 4 bytes each, and a bit per weight.
  const std::string config =
      R"({"model_type":"llama","vocab_size":11,"hidden_size":96,"intermediate_size":288,
    "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":16})";
  fedspallm::test::write_tiny_model(input, config);
  write_run();
  const ExportResult result = run_export(ExportFormat::bitmask);
  EXPECT_NEAR(result.ratio(), 2.0 / 3.0 + 1.0 / 32.0, 0.02);
}

TEST_F(Export, WritesOneClientsResult) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  run_export(ExportFormat::huggingface, "novels");
  const Inspection inspection = inspect(out);
  for (const InspectedMatrix& matrix : inspection.matrices)
    EXPECT_EQ(matrix.zeros > 0, matrix.block == 1) << matrix.name;
}

TEST_F(Export, UsesAModelThatHasMoved) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  fs::rename(input, folder.path() / "moved");
  expect_error<ModelError>([&] { run_export(); }, {input.string()});
  run_export(ExportFormat::huggingface, std::nullopt, folder.path() / "moved");
  EXPECT_EQ(files_of(out), files_of(paths.model()));
}

TEST_F(Export, RefusesAnotherDenseModel) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  flip_bit(input / "model.safetensors", fs::file_size(input / "model.safetensors") - 4);
  expect_error<ModelError>([&] { run_export(); }, {input.string(), "another model", "SHA-256", "expected"});
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(Export, RefusesAModelOfOtherShapesWhereNoDigestWasRecorded) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  const fs::path other = folder.path() / "other";
  fedspallm::test::write_tiny_model(other, fedspallm::test::kTinyLlama);
  Provenance provenance = BlockStore::of_run(paths).read_provenance();
  provenance.entries.clear();
  BlockStore::of_run(paths).write_links(provenance, true);
  expect_error<ModelError>([&] { run_export(ExportFormat::huggingface, std::nullopt, other); },
                           {"found shape", "as in the run"});
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"in", "other", "run"}));
}

TEST_F(Export, RefusesAnUnfinishedRun) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  BlockStore::of_run(paths).write_links(provenance_of(ModelDirectory(input)), false);
  expect_error<DataError>([&] { run_export(); }, {"the run is unfinished: ", " blocks are merged"});
}

TEST_F(Export, RefusesAnOutputDirectoryInUse) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  fs::create_directories(out);
  write_file(out / "precious", "");
  for (const ExportFormat format : {ExportFormat::huggingface, ExportFormat::bitmask})
    expect_error<ConfigError>([&] { run_export(format); }, {out.string(), "not empty"});
  expect_error<ConfigError>([&] { unpack_bitmask("none", std::nullopt, out); }, {"not empty"});
  EXPECT_EQ(names_in(out), (std::vector<std::string>{"precious"}));
  fs::remove(out / "precious");
  EXPECT_NO_THROW(run_export()) << "an empty directory will do";
}

TEST_F(Export, NamesTheNearestClientAndClientsWithoutAResult) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  expect_error<ConfigError>([&] { run_export(ExportFormat::huggingface, "novel"); },
                            {"'novel'", "nearest is 'novels'", "jargon"});
  expect_error<DataError>([&] { run_export(ExportFormat::huggingface, "jargon"); },
                          {"jargon.h5", "keep_clients"});
}

TEST_F(Export, SaysWhereARunHasNoMergedModel) {
  copy_golden("goldens/llama-transformers4");
  BlockStore::of_run(paths).write_links(provenance_of(ModelDirectory(input)), true);
  expect_error<DataError>([&] { run_export(); }, {"no merged model", "novels, python docs, jargon"});
}

TEST_F(Export, NamesADamagedBlockAndLeavesNoOutput) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  flip_bit(paths.blocks() / "r01-b0000.h5", 1000);
  for (const ExportFormat format : {ExportFormat::huggingface, ExportFormat::bitmask})
    expect_error<DataError>([&] { run_export(format); }, {"r01-b0000.h5", "damaged"});
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"in", "run"}));
}

TEST_F(Export, NamesAConfigurationThatCannotBeRead) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  Provenance provenance = provenance_of(ModelDirectory(input));
  provenance.config_toml = "model = [";
  BlockStore::of_run(paths).write_links(provenance, true);
  expect_error<DataError>([&] { run_export(); }, {"run.h5", "configuration"});
  provenance.config_toml.clear();
  BlockStore::of_run(paths).write_links(provenance, true);
  expect_error<DataError>([&] { run_export(); }, {"run.h5", "model.path"});
}

TEST_F(Export, UnpackComparesADenseModelWhenOneIsGiven) {
  copy_golden("goldens/llama-transformers4");
  write_run();
  run_export(ExportFormat::bitmask);
  EXPECT_NO_THROW(unpack_bitmask(out / "model.fspm", input, folder.path() / "a"));
  EXPECT_NO_THROW(unpack_bitmask(out / "model.fspm", "", folder.path() / "b"));
  expect_error<ModelError>([&] { unpack_bitmask(out / "model.fspm", paths.model(), folder.path() / "c"); },
                           {"another model"});
  EXPECT_FALSE(fs::exists(folder.path() / "c"));
}

}  // namespace
}  // namespace fedspallm::store::test
