// SPDX-License-Identifier: Apache-2.0
// The output model directory: the input's bytes except the data of pruned matrices.
#include <nlohmann/json.hpp>

#include "store_support.hpp"

namespace fedspallm::store::test {
namespace {

using fedspallm::test::kTinyLlama;
using fedspallm::test::write_tiny_model;
using model::ModelDirectory;

/// A copy of a golden model that tests may change.
class Writer : public testing::Test {
 protected:
  fs::path golden(const std::string& name) {
    copy_model(name, folder.path() / test_name(name));
    return folder.path() / test_name(name);
  }
  TemporaryFolder folder;
  fs::path out = folder.path() / "out";
};

/// The dense elements of a tensor, as floats.
std::vector<float> values_of(const ModelDirectory& model, const std::string& name) {
  const model::TensorView tensor = model.tensor(name);
  std::vector<float> values(tensor.bytes.size() / size_of(tensor.dtype()));
  widen(tensor.dtype(), tensor.bytes.data(), values.data(), values.size());
  return values;
}

class UnchangedModel : public Writer, public testing::WithParamInterface<std::string> {};

TEST_P(UnchangedModel, IsByteIdenticalToTheInput) {
  const ModelDirectory model(golden(GetParam()));
  write_model(model, out, false, nothing_pruned());
  EXPECT_EQ(files_of(out), files_of(model.path()));
  EXPECT_FALSE(fs::exists(out.string() + ".part"));
}

TEST_P(UnchangedModel, IsByteIdenticalWhenEveryMatrixIsWrittenWithNothingDropped) {
  const ModelDirectory model(golden(GetParam()));
  std::map<std::int64_t, BlockRecord> blocks;
  for (std::int64_t block = 0; block < model.architecture().blocks; ++block)
    for (std::size_t i = 0; i < model.architecture().matrices.size(); ++i) {
      const std::string name = model.matrix_name(block, i);
      const model::TensorView tensor = model.tensor(name);
      const std::vector<float> all = values_of(model, name);
      blocks[block].matrices.push_back(
          weights_of(model, block, i,
                     wire::pack(tensor.entry->shape[0], tensor.entry->shape[1], tensor.dtype(), all,
                                std::vector<std::uint8_t>(all.size(), 1))));
    }
  for (const int threads : {1, 3}) {
    write_model(model, out, false, source_of(blocks), threads);
    EXPECT_EQ(files_of(out), files_of(model.path())) << threads << " threads";
  }
}

TEST_F(Writer, AFailureInOneOfSeveralThreadsIsTheWriters) {
  const ModelDirectory model(golden("goldens/llama-transformers4"));
  const BlockSource broken = [](std::int64_t block) -> std::optional<BlockRecord> {
    if (block == 1) throw DataError("block 1 is damaged");
    return std::nullopt;
  };
  expect_error<DataError>([&] { write_model(model, out, false, broken, 3); }, {"block 1 is damaged"});
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(fs::exists(out.string() + ".part"));
}

INSTANTIATE_TEST_SUITE_P(Goldens, UnchangedModel,
                         testing::Values("fixtures/opt", "goldens/llama-transformers4", "goldens/llama-fp16",
                                         "goldens/llama-sharded", "goldens/opt-projection", "goldens/qwen3"),
                         [](const auto& test) { return test_name(test.param); });

class PrunedModel : public UnchangedModel {};

TEST_P(PrunedModel, DiffersInTheWrittenMatricesOnlyAndHasExactZerosThere) {
  const ModelDirectory model(golden(GetParam()));
  const std::string name = model.matrix_name(0, 1);
  const wire::PackedMatrix packed = prune_tensor(model, 0, 1, model.matrix_dtype(0, 1));
  BlockRecord record{.round = 1, .block = 0, .matrices = {weights_of(model, 0, 1, packed)}};
  record.matrices.emplace_back();  // nobody pruned it
  record.matrices.back().name = model.matrix_name(0, 0);
  record.matrices.back().pruned = false;
  write_model(model, out, false, source_of({{0, record}}));
  const ModelDirectory pruned(out);
  std::vector<float> expected(static_cast<std::size_t>(packed.size()));
  wire::unpack(packed, expected);
  EXPECT_EQ(values_of(pruned, name), expected);
  const std::vector<float> all = values_of(model, name);
  for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(expected[i], i % 3 == 0 ? 0.0F : all[i]);
  for (std::size_t s = 0; s < model.shards().size(); ++s)
    for (const model::TensorEntry& entry : model.shards()[s].tensors()) {
      if (entry.name == name) continue;
      const auto before = model.shards()[s].data(entry);
      const auto after = pruned.shards()[s].data(*pruned.shards()[s].find(entry.name));
      EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin(), after.end())) << entry.name;
    }
}

INSTANTIATE_TEST_SUITE_P(Goldens, PrunedModel,
                         testing::Values("fixtures/opt", "goldens/llama-transformers4", "goldens/llama-fp16",
                                         "goldens/llama-sharded", "goldens/opt-projection"),
                         [](const auto& test) { return test_name(test.param); });

TEST_F(Writer, CopiesSideFilesButNoOtherWeightsNoFoldersAndNoUnfinishedFiles) {
  const fs::path input = golden("goldens/llama-transformers4");
  for (const char* name : {"tokenizer.json", "generation_config.json", "chat_template.jinja", "README.md",
                           ".gitattributes", "tokenizer.model", "vocab.txt"})
    write_file(input / name, std::string("content of ") + name);
  for (const char* name :
       {"pytorch_model.bin", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "x.part",
        "consolidated.00.pth", "flax_model.msgpack", "model.gguf"})
    write_file(input / name, "other weights");
  fs::create_directories(input / "original");
  write_file(input / "original" / "x", "");
  write_model(ModelDirectory(input), out, false, nothing_pruned());
  EXPECT_EQ(names_in(out),
            (std::vector<std::string>{".gitattributes", "README.md", "chat_template.jinja", "config.json",
                                      "generation_config.json", "model.safetensors", "tokenizer.json",
                                      "tokenizer.model", "vocab.txt"}));
  EXPECT_EQ(read_file(out / "tokenizer.json"), "content of tokenizer.json");
}

TEST_F(Writer, FollowsTheLinksOfAHuggingFaceCache) {
  const fs::path real = golden("goldens/llama-sharded");
  const fs::path cache = folder.path() / "snapshot";
  fs::create_directories(cache);
  int blob = 0;
  for (const auto& [name, bytes] : files_of(real)) {
    fs::rename(real / name, folder.path() / std::to_string(blob));
    fs::create_symlink(folder.path() / std::to_string(blob++), cache / name);
  }
  write_model(ModelDirectory(cache), out, false, nothing_pruned());
  EXPECT_EQ(files_of(out), files_of(cache));
  for (const auto& entry : fs::directory_iterator(out)) EXPECT_FALSE(entry.is_symlink()) << entry.path();
}

TEST_F(Writer, NamesALinkToNothingButNotAnEditorsLock) {
  const fs::path input = golden("goldens/llama-transformers4");
  fs::create_symlink("nobody@nowhere", input / ".#config.json");
  write_model(ModelDirectory(input), out, false, nothing_pruned());
  fs::create_symlink("gone", input / "tokenizer.json");
  expect_error<ModelError>([&] { write_model(ModelDirectory(input), out, false, nothing_pruned()); },
                           {"tokenizer.json", "link to nothing"});
}

TEST_F(Writer, LeavesTheOldDirectoryUntilTheNewOneIsFinished) {
  const ModelDirectory model(golden("goldens/llama-transformers4"));
  fs::create_directories(out);
  write_file(out / "old", "old");
  fs::create_directories(out.string() + ".part");
  write_file(fs::path(out.string() + ".part") / "torn", "");
  {
    ModelWriter abandoned(model, out);
    abandoned.start();
    abandoned.write_shard(0, nothing_pruned());
    EXPECT_EQ(names_in(out), (std::vector<std::string>{"old"}));
  }
  EXPECT_EQ(names_in(out), (std::vector<std::string>{"old"}));
  EXPECT_FALSE(fs::exists(out.string() + ".part"));
  write_model(model, out, false, nothing_pruned());
  EXPECT_EQ(files_of(out), files_of(model.path()));
  EXPECT_FALSE(fs::exists(out.string() + ".part"));
}

TEST_F(Writer, TakesATrailingSlashAndMissingFoldersAbove) {
  const ModelDirectory model(golden("goldens/llama-transformers4"));
  write_model(model, folder.path() / "a" / "b" / "", false, nothing_pruned());
  EXPECT_EQ(files_of(folder.path() / "a" / "b"), files_of(model.path()));
}

TEST_F(Writer, RefusesToReplaceItsInputOrAFile) {
  const ModelDirectory model(golden("goldens/llama-transformers4"));
  for (const fs::path& bad : {model.path(), folder.path(), model.path() / "x" / ".."})
    expect_error<ConfigError>([&] { ModelWriter(model, bad).start(); }, {"would replace the input"});
  fs::create_directory_symlink(model.path(), folder.path() / "alias");
  expect_error<ConfigError>([&] { ModelWriter(model, folder.path() / "alias").start(); },
                            {"would replace the input"});
  write_file(out, "a file");
  expect_error<ConfigError>([&] { const ModelWriter writer(model, out); }, {"not a directory"});
  for (const char* bad : {"", "/", ".."})
    expect_error<ConfigError>([&] { const ModelWriter writer(model, bad); }, {"output directory"});
  EXPECT_TRUE(fs::exists(model.path() / "config.json"));
}

TEST_F(Writer, RefusesMatricesThatAreNotTheInputs) {
  const ModelDirectory model(golden("goldens/llama-transformers4"));
  ModelWriter writer(model, out);
  writer.start();
  const auto refused = [&](const wire::PackedMatrix& packed, const std::vector<std::string>& fragments) {
    const BlockRecord record{.round = 1, .block = 0, .matrices = {weights_of(model, 0, 0, packed)}};
    expect_error<LogicError>([&] { writer.write_shard(0, source_of({{0, record}})); }, fragments);
  };
  wire::PackedMatrix packed = prune_tensor(model, 0, 0, model.matrix_dtype(0, 0));
  const wire::PackedMatrix good = packed;
  ++packed.rows;
  refused(packed, {model.matrix_name(0, 0), "shape"});
  refused(prune_tensor(model, 0, 0, good.dtype == DType::f32 ? DType::f16 : DType::f32), {"dtype"});
  packed = good;
  packed.values.pop_back();
  refused(packed, {"values"});
  expect_error<LogicError>([&] { writer.write_shard(writer.shards(), nothing_pruned()); },
                           {"there is such a shard"});
}

// ---------------------------------------------------------------- several writers

TEST_F(Writer, ShardsMayBeWrittenByOthersThanWhoStartsAndInAnyOrder) {
  const ModelDirectory model(golden("goldens/llama-sharded"));
  ASSERT_GT(model.shards().size(), 1U);
  std::map<std::int64_t, BlockRecord> blocks;
  for (std::uint32_t block = 0; block < model.architecture().blocks; ++block)
    blocks[block] = pruned_block(model, block, model.matrix_dtype(block, 0));
  const fs::path alone = folder.path() / "alone";
  write_model(model, alone, false, source_of(blocks));
  ModelWriter first(model, out);
  first.start();
  std::size_t readings = 0;
  for (std::size_t shard = model.shards().size(); shard-- > 0;) {
    std::map<std::int64_t, int> asked;
    const BlockSource source = source_of(blocks);
    const ModelWriter other(model, out);
    other.write_shard(shard, [&](std::int64_t block) {
      ++asked[block];
      return source(block);
    });
    for (const auto& [block, times] : asked) EXPECT_EQ(times, 1) << block;
    readings += asked.size();
  }
  EXPECT_GT(readings, blocks.size()) << "the test's model has a block in two shards";
  EXPECT_FALSE(fs::exists(out));
  first.finish();
  EXPECT_EQ(files_of(out), files_of(alone));
  EXPECT_NE(files_of(out), files_of(model.path()));
}

TEST_F(Writer, DoesNotPublishAModelThatIsNotWhole) {
  const ModelDirectory model(golden("goldens/llama-sharded"));
  const std::string last = model.shards().back().path().filename().string();
  ModelWriter writer(model, out);
  writer.start();
  for (std::size_t shard = 0; shard + 1 < writer.shards(); ++shard)
    writer.write_shard(shard, nothing_pruned());
  expect_error<ResourceError>([&] { writer.finish(); }, {last, "No such file", "one and the same"});
  writer.write_shard(writer.shards() - 1, nothing_pruned());
  const fs::path file = fs::path(out.string() + ".part") / last;
  fs::resize_file(file, fs::file_size(file) - 1);
  expect_error<ResourceError>([&] { writer.finish(); }, {last, "found", "expected"});
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(Writer, NamesTheShardThatFindsNoSpace) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const ModelDirectory model(golden("goldens/llama-sharded"));
  const std::string name = model.shards().back().path().filename().string();
  ModelWriter writer(model, out);
  writer.start();
  fs::create_symlink("/dev/full", fs::path(out.string() + ".part") / name);
  expect_error<ResourceError>([&] { writer.write_shard(writer.shards() - 1, nothing_pruned()); },
                              {name, "No space left on device"});
}

// ---------------------------------------------------------------- widening

TEST_F(Writer, WidensSixteenBitModelsExactlyAndSaysSoInConfigAndIndex) {
  for (const std::string name :
       {"goldens/llama-fp16", "goldens/llama-sharded", "goldens/llama-transformers4"}) {
    const ModelDirectory model(golden(name));
    const wire::PackedMatrix packed = prune_tensor(model, 1, 2, DType::f32);
    const BlockRecord record{.round = 1, .block = 1, .matrices = {weights_of(model, 1, 2, packed)}};
    write_model(model, out, /*widen=*/true, source_of({{1, record}}));
    const ModelDirectory wide(out);  // checks header, offsets, shapes, index
    std::int64_t total = 0;
    for (std::size_t s = 0; s < model.shards().size(); ++s)
      for (const model::TensorEntry& entry : model.shards()[s].tensors()) {
        EXPECT_EQ(wide.tensor(entry.name).dtype(), DType::f32);
        EXPECT_EQ(wide.tensor(entry.name).entry->shape, entry.shape);
        total += static_cast<std::int64_t>(wide.tensor(entry.name).bytes.size());
        if (entry.name == model.matrix_name(1, 2)) continue;
        EXPECT_EQ(values_of(wide, entry.name), values_of(model, entry.name));
      }
    std::vector<float> expected(static_cast<std::size_t>(packed.size()));
    wire::unpack(packed, expected);
    EXPECT_EQ(values_of(wide, model.matrix_name(1, 2)), expected);
    const auto config = nlohmann::json::parse(read_file(out / "config.json"));
    EXPECT_EQ(config.value("torch_dtype", config.value("dtype", "float32")), "float32");
    if (!model.sharded()) continue;
    const auto index = nlohmann::json::parse(read_file(out / "model.safetensors.index.json"));
    EXPECT_EQ(index["metadata"]["total_size"], total);
  }
}

TEST_F(Writer, WideningAnIndexWhoseMetadataAreNoObjectIsAnErrorOfTheModel) {
  const fs::path input = folder.path() / "in";
  copy_model("goldens/llama-sharded", input);
  const fs::path index = input / "model.safetensors.index.json";
  auto json = nlohmann::json::parse(read_file(index));
  json["metadata"] = {1, 2};
  write_file(index, json.dump());
  expect_error<ModelError>([&] { write_model(ModelDirectory(input), out, /*widen=*/true, nothing_pruned()); },
                           {index.string(), "'metadata'"});
}

TEST_F(Writer, WideningKeepsMetadataOtherDtypesAndOddNames) {
  const fs::path input = folder.path() / "in";
  fs::create_directories(input);
  write_file(input / "config.json", kTinyLlama);
  fedspallm::test::SafetensorsBuilder builder;
  builder.add("caf\\u00e9 \\\"x\\\"", "I8", {3}, "abc");
  for (const auto& tensor : fedspallm::test::tiny_tensors(kTinyLlama)) {
    std::string bytes(tensor.values.size() * 2, '\0');
    narrow(DType::bf16, tensor.values.data(), bytes.data(), tensor.values.size());
    builder.add(tensor.name, "BF16", tensor.shape, bytes);
  }
  std::string header = builder.header();
  header.insert(1, "\"__metadata__\":{\"format\":\"pt\"},");
  const std::string data = builder.bytes().substr(8 + builder.header().size());
  write_file(input / "model.safetensors", fedspallm::test::safetensors_bytes(header, data));
  write_model(ModelDirectory(input), out, /*widen=*/true, nothing_pruned());
  const ModelDirectory wide(out);
  const std::string found = read_file(out / "model.safetensors");
  EXPECT_THAT(found, testing::HasSubstr("\"__metadata__\":{\"format\":\"pt\"}"));
  EXPECT_EQ(wide.shards()[0].header_bytes() % 8, 0);
  const auto odd = wide.tensor("caf\xc3\xa9 \"x\"");
  EXPECT_EQ(odd.entry->dtype_name, "I8");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(odd.bytes.data()), odd.bytes.size()), "abc");
  // A configuration that says nothing of dtypes gets no key; loaders then ask the tensors.
  EXPECT_EQ(nlohmann::json::parse(read_file(out / "config.json")), nlohmann::json::parse(kTinyLlama));
}

}  // namespace
}  // namespace fedspallm::store::test
