// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/model/model_directory.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "support/expect_error.hpp"
#include "support/support.hpp"
#include "support/tiny_model.hpp"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <set>
#include <thread>

namespace fedspallm::model {
namespace {

using nlohmann::json;
using test::expect_error;
using test::kTinyLlama;
using test::kTinyOpt;
using test::TinyTensor;

class ModelDirectoryTest : public testing::Test {
 protected:
  void refuse(const std::vector<std::string>& fragments) const {
    expect_error<ModelError>([&] { ModelDirectory{path()}; }, fragments);
  }
  [[nodiscard]] std::filesystem::path path() const { return folder_.path() / "model"; }
  void write(const std::string& config, const std::vector<TinyTensor>& tensors) const {
    test::write_tiny_model(path(), config, tensors);
  }

  /// The tensors in two shards and an index. Even numbers go to a.safetensors.
  json write_shards(const std::vector<TinyTensor>& tensors) const {
    std::filesystem::create_directories(path());
    test::write_file(path() / "config.json", kTinyLlama);
    test::SafetensorsBuilder shards[2];
    json map = json::object();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      shards[i % 2].add(tensors[i].name, tensors[i].shape, tensors[i].values);
      map[tensors[i].name] = i % 2 == 0 ? "a.safetensors" : "b.safetensors";
    }
    shards[0].write(path() / "a.safetensors");
    shards[1].write(path() / "b.safetensors");
    write_index(map);
    return map;
  }
  void write_index(const json& map) const {
    test::write_file(path() / "model.safetensors.index.json",
                     json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
  }

 private:
  test::TemporaryFolder folder_;
};

TinyTensor& named(std::vector<TinyTensor>& tensors, const std::string& name) {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const TinyTensor& t) { return t.name == name; });
  if (found == tensors.end()) throw std::runtime_error("the test names no tensor: " + name);
  return *found;
}

std::vector<float> values_of(const TensorView& view) {
  std::vector<float> values(view.bytes.size() / size_of(view.dtype()));
  widen(view.dtype(), view.bytes.data(), values.data(), values.size());
  return values;
}

TEST_F(ModelDirectoryTest, OpensOneFileAndGivesEveryTensor) {
  const auto tensors = test::tiny_tensors(kTinyLlama);
  write(kTinyLlama, tensors);
  const ModelDirectory model(path());
  EXPECT_FALSE(model.sharded());
  EXPECT_EQ(model.shards().size(), 1U);
  for (const TinyTensor& tensor : tensors)
    EXPECT_EQ(values_of(model.tensor(tensor.name)), tensor.values) << tensor.name;
  EXPECT_EQ(model.matrix_name(1, 5), "model.layers.1.mlp.up_proj.weight");
  EXPECT_EQ(model.matrix_dtype(1, 5), DType::f32);
  EXPECT_EQ(model.prunable_weights(), 2 * (8 * 8 + 4 * 8 + 4 * 8 + 8 * 8 + 3 * 12 * 8));
  EXPECT_FALSE(model.contains("model.layers.2.mlp.up_proj.weight"));
  expect_error<ModelError>([&] { static_cast<void>(model.tensor("nothing")); },
                           {"model.safetensors", "'nothing'", "missing"});
  EXPECT_THROW(static_cast<void>(model.matrix_name(2, 0)), LogicError);
  EXPECT_THROW(static_cast<void>(model.matrix_name(-1, 0)), LogicError);
  EXPECT_THROW(static_cast<void>(model.matrix_name(0, 7)), LogicError);
}

TEST_F(ModelDirectoryTest, OpensShardsByTheIndex) {
  const auto tensors = test::tiny_tensors(kTinyLlama);
  write_shards(tensors);
  const ModelDirectory model(path());
  EXPECT_TRUE(model.sharded());
  ASSERT_EQ(model.shards().size(), 2U);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorView view = model.tensor(tensors[i].name);
    EXPECT_EQ(view.shard, i % 2) << tensors[i].name;
    EXPECT_EQ(values_of(view), tensors[i].values) << tensors[i].name;
  }
}

TEST_F(ModelDirectoryTest, TensorsThatTheArchitectureDoesNotKnowAreAllowed) {
  auto tensors = test::tiny_tensors(kTinyLlama);
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}, {1, 2}});
  write(kTinyLlama, tensors);
  EXPECT_TRUE(ModelDirectory(path()).contains("model.layers.0.self_attn.rotary_emb.inv_freq"));
}

TEST_F(ModelDirectoryTest, AFileThatNoIndexNamesIsNeverOpened) {
  write_shards(test::tiny_tensors(kTinyLlama));
  test::write_file(path() / "c.safetensors", "rubbish");
  test::write_file(path() / "model.safetensors.part", "rubbish");
  EXPECT_EQ(ModelDirectory(path()).shards().size(), 2U);
}

TEST_F(ModelDirectoryTest, TheSingleFileWinsOverAnIndexAsInTransformers) {
  const auto tensors = test::tiny_tensors(kTinyLlama);
  write(kTinyLlama, tensors);
  test::write_file(path() / "model.safetensors.index.json", "rubbish");
  EXPECT_FALSE(ModelDirectory(path()).sharded());
}

TEST_F(ModelDirectoryTest, RefusesFoldersWithoutAModel) {
  refuse({path().string(), "no such model folder"});
  std::filesystem::create_directories(path());
  refuse({"config.json", "no such file"});
  test::write_file(path() / "config.json", kTinyLlama);
  refuse({path().string(), "expected model.safetensors or model.safetensors.index.json"});
  test::write_file(path() / "pytorch_model.bin", "x");
  refuse({"found pytorch_model.bin", "save the model as safetensors"});
  test::write_file(path() / "model.safetensors", "rubbish");
  refuse({"model.safetensors", "7 bytes"});
}

TEST_F(ModelDirectoryTest, NamesATensorThatIsMissing) {
  for (const char* name :
       {"model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "model.embed_tokens.weight",
        "lm_head.weight", "model.layers.0.post_attention_layernorm.weight"}) {
    auto tensors = test::tiny_tensors(kTinyLlama);
    std::erase_if(tensors, [&](const TinyTensor& t) { return t.name == name; });
    write(kTinyLlama, tensors);
    refuse({"model.safetensors", name, "missing", "llama"});
  }
}

TEST_F(ModelDirectoryTest, NamesATensorOfAnotherShape) {
  auto tensors = test::tiny_tensors(kTinyLlama);
  named(tensors, "model.layers.1.mlp.up_proj.weight").shape = {8, 12};
  write(kTinyLlama, tensors);
  refuse({"model.safetensors", "model.layers.1.mlp.up_proj.weight", "[8, 12]", "expected [12, 8]"});
}

TEST_F(ModelDirectoryTest, NamesATensorOfATypeThatCannotBeRead) {
  auto tensors = test::tiny_tensors(kTinyLlama);
  std::filesystem::create_directories(path());
  test::write_file(path() / "config.json", kTinyLlama);
  test::SafetensorsBuilder builder;
  for (const TinyTensor& tensor : tensors) {
    if (tensor.name == "model.norm.weight") {
      builder.add(tensor.name, "I8", tensor.shape, std::string(8, '\1'));
    } else {
      builder.add(tensor.name, tensor.shape, tensor.values);
    }
  }
  builder.write(path() / "model.safetensors");
  refuse({"model.norm.weight", "found dtype I8", "F32, F16 or BF16"});
}

TEST_F(ModelDirectoryTest, RefusesABiasThatTheConfigurationDenies) {
  auto tensors = test::tiny_tensors(kTinyLlama);
  tensors.push_back({"model.layers.1.self_attn.q_proj.bias", {8}, std::vector<float>(8, 1.0F)});
  write(kTinyLlama, tensors);
  refuse({"model.layers.1.self_attn.q_proj.bias", "config.json"});
}

TEST_F(ModelDirectoryTest, RefusesTensorsOfBlocksThatTheConfigurationDoesNotTellOf) {
  for (const char* name :
       {"model.layers.0.self_attn.q_norm.weight", "model.layers.2.self_attn.q_proj.weight"}) {
    auto tensors = test::tiny_tensors(kTinyLlama);
    tensors.push_back({name, {8}, std::vector<float>(8, 1.0F)});
    write(kTinyLlama, tensors);
    refuse({name, "config.json tells of no such tensor", "2 blocks"});
  }
}

TEST_F(ModelDirectoryTest, KeepsTablesThatOlderTransformersSaved) {
  auto tensors = test::tiny_tensors(kTinyLlama);
  tensors.push_back({"model.layers.1.self_attn.rotary_emb.inv_freq", {2}, std::vector<float>(2, 1.0F)});
  write(kTinyLlama, tensors);
  EXPECT_NO_THROW(ModelDirectory{path()});
}

TEST_F(ModelDirectoryTest, RefusesAnIndexThatDisagreesWithTheShards) {
  const auto tensors = test::tiny_tensors(kTinyLlama);
  const json map = write_shards(tensors);
  const std::string first = tensors[0].name;

  json moved = map;
  moved[first] = "b.safetensors";
  write_index(moved);
  refuse({"index.json", first, "'b.safetensors'", "'a.safetensors'", "stale"});

  json extra = map;
  extra["ghost"] = "a.safetensors";
  write_index(extra);
  refuse({"index.json", "'ghost'", "no shard has it"});

  json lacking = map;
  lacking.erase(first);
  write_index(lacking);
  refuse({"index.json", first, "'a.safetensors'", "stale"});

  json missing = map;
  missing[first] = "gone.safetensors";
  write_index(missing);
  refuse({"index.json", "'gone.safetensors'", "missing"});
}

TEST_F(ModelDirectoryTest, RefusesATensorInTwoShards) {
  const auto tensors = test::tiny_tensors(kTinyLlama);
  write_shards(tensors);
  std::filesystem::copy_file(path() / "a.safetensors", path() / "b.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  refuse({"index.json", "a.safetensors and in", "b.safetensors"});
}

TEST_F(ModelDirectoryTest, RefusesATruncatedShard) {
  write_shards(test::tiny_tensors(kTinyLlama));
  std::filesystem::resize_file(path() / "b.safetensors",
                               std::filesystem::file_size(path() / "b.safetensors") - 1);
  refuse({"b.safetensors", "truncated"});
}

TEST_F(ModelDirectoryTest, RefusesMalformedIndexes) {
  const auto tensors = test::tiny_tensors(kTinyLlama);
  write_shards(tensors);
  const auto index = path() / "model.safetensors.index.json";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not valid JSON"},
      {"[]", "'weight_map' is missing"},
      {"{}", "'weight_map' is missing"},
      {R"({"weight_map":[]})", "'weight_map' is missing"},
      {R"({"weight_map":{}})", "names no tensor"},
      {R"({"weight_map":{"t":3}})", "tensor 't': found 3"},
      {R"({"weight_map":{"t":""}})", "the name of a file in this folder"},
      {R"({"weight_map":{"t":"../model/a.safetensors"}})", "the name of a file in this folder"},
      {R"({"weight_map":{"t":"/etc/passwd"}})", "the name of a file in this folder"},
      {R"({"weight_map":{"t":".."}})", "the name of a file in this folder"},
      {R"({"weight_map":{"t":"a\u0000b"}})", "the name of a file in this folder"},
      {R"({"weight_map":{"t":"a.safetensors","t":"b.safetensors"}})", "'t' occurs twice"},
  };
  for (const auto& [text, fragment] : cases) {
    SCOPED_TRACE(text);
    test::write_file(index, text);
    refuse({"index.json", fragment});
  }
}

TEST_F(ModelDirectoryTest, NamesWithoutModelPrefixAreFound) {
  for (const std::string& config : {kTinyLlama, kTinyOpt}) {
    auto tensors = test::tiny_tensors(config);
    for (TinyTensor& tensor : tensors)
      if (tensor.name.starts_with("model.")) tensor.name.erase(0, 6);
    write(config, tensors);
    const ModelDirectory model(path());
    EXPECT_FALSE(model.architecture().block_prefix.starts_with("model."))
        << model.architecture().block_prefix;
    EXPECT_TRUE(model.contains(model.matrix_name(1, 0)));
  }
}

TEST_F(ModelDirectoryTest, ATiedHeadIsTheEmbeddingUnlessTheFileHasAHead) {
  auto tensors = test::tiny_tensors(kTinyOpt);
  write(kTinyOpt, tensors);
  {
    const ModelDirectory model(path());
    EXPECT_TRUE(model.architecture().tied_head);
    EXPECT_EQ(model.architecture().head_name, "model.decoder.embed_tokens.weight");
  }
  tensors.push_back({"lm_head.weight", {11, 8}, std::vector<float>(88, 0.5F)});
  write(kTinyOpt, tensors);
  const ModelDirectory model(path());
  EXPECT_FALSE(model.architecture().tied_head);
  EXPECT_EQ(model.architecture().head_name, "lm_head.weight");
}

TEST_F(ModelDirectoryTest, TheDigestDependsOnEveryFileAndOnNothingElse) {
  write_shards(test::tiny_tensors(kTinyLlama));
  const std::string digest = ModelDirectory(path()).digest();
  EXPECT_EQ(digest.size(), 64U);
  test::write_file(path() / "README.md", "x");
  EXPECT_EQ(ModelDirectory(path()).digest(), digest);
  test::write_file(path() / "config.json", kTinyLlama + " ");
  EXPECT_NE(ModelDirectory(path()).digest(), digest);
  test::write_file(path() / "config.json", kTinyLlama);
  EXPECT_EQ(ModelDirectory(path()).digest(), digest);
  auto tensors = test::tiny_tensors(kTinyLlama);
  tensors.back().values[0] += 1.0F;
  write_shards(tensors);
  EXPECT_NE(ModelDirectory(path()).digest(), digest);
}

TEST_F(ModelDirectoryTest, TheDigestIsThatOfTheFilesDigestsWhateverTheThreads) {
  write_shards(test::tiny_tensors(kTinyLlama));
  const ModelDirectory model(path());
  std::string lines;
  std::vector<std::filesystem::path> files{path() / "config.json", path() / "model.safetensors.index.json"};
  for (const SafetensorsFile& shard : model.shards()) files.push_back(shard.path());
  for (const auto& file : files)
    lines += fmt::format("{}  {}\n", sha256_of_file(file), file.filename().string());
  const std::string expected = sha256(std::as_bytes(std::span(lines)));
  for (const int threads : {1, 3, 64}) {
    std::atomic<std::size_t> beats = 0;
    EXPECT_EQ(model.digest(threads, [&] { ++beats; }), expected) << threads << " threads";
    EXPECT_GE(beats, files.size()) << "one in each file at least";
  }
}

TEST_F(ModelDirectoryTest, FilesAreHashedAtTheSameTime) {
  write_shards(test::tiny_tensors(kTinyLlama));
  std::mutex mutex;
  std::condition_variable came;
  std::set<std::thread::id> threads;
  bool both = true;
  (void)ModelDirectory(path()).digest(2, [&] {
    std::unique_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
    came.notify_all();
    both = both && came.wait_for(lock, std::chrono::minutes(1), [&] { return threads.size() == 2; });
  });
  EXPECT_TRUE(both) << "one file waits for the other one";
}

TEST_F(ModelDirectoryTest, TheTokenizersDigestIsEmptyWithoutOne) {
  write(kTinyLlama, test::tiny_tensors(kTinyLlama));
  EXPECT_EQ(ModelDirectory(path()).tokenizer_digest(), "");
  test::write_file(path() / "tokenizer.json", "abc");
  EXPECT_EQ(ModelDirectory(path()).tokenizer_digest(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace fedspallm::model
