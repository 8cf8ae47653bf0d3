// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/model/model_directory.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/base/thread_pool.hpp"
#include "fedspallm/model/json_text.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace fedspallm::model {

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::string_view kOptionalPrefix = "model.";

using ShardNames = std::map<std::string, std::string>;  // tensor -> file

[[noreturn]] void fail_no_weights(const std::filesystem::path& folder) {
  std::string found;
  std::error_code ignored;
  for (const char* other : {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"})
    if (std::filesystem::exists(folder / other, ignored))
      found = fmt::format(" (found {}: save the model as safetensors)", other);
  throw ModelError(
      fmt::format("{}: no weights: expected {} or {}{}", folder.string(), kSingleFile, kIndexFile, found));
}

ShardNames read_index(const std::filesystem::path& path) {
  const std::string file = path.string();
  const nlohmann::json document = parse_json(read_text_file(path), file);
  check<ModelError>(
      document.is_object() && document.contains("weight_map") && document["weight_map"].is_object(),
      fmt::format("{}: key 'weight_map' is missing or no object", file));
  ShardNames result;
  for (const auto& [tensor, shard] : document["weight_map"].items()) {
    check<ModelError>(shard.is_string(), fmt::format("{}: tensor '{}': found {}, expected a file name", file,
                                                     tensor, show(shard)));
    const auto name = shard.get<std::string>();
    const bool plain = !name.empty() && name.find_first_of(std::string("/\\\0", 3)) == std::string::npos &&
                       name != "." && name != "..";
    check<ModelError>(
        plain, fmt::format("{}: tensor '{}': found {}, expected the name of a file in this folder", file,
                           tensor, show(shard)));
    result.emplace(tensor, name);
  }
  check<ModelError>(!result.empty(), fmt::format("{}: key 'weight_map' names no tensor", file));
  return result;
}

/// Takes "model." off every name that begins with it.
void remove_prefix(Architecture& architecture) {
  for (std::string* name :
       {&architecture.block_prefix, &architecture.embedding_name, &architecture.position_name,
        &architecture.final_norm_name, &architecture.project_in_name, &architecture.project_out_name}) {
    if (name->starts_with(kOptionalPrefix)) name->erase(0, kOptionalPrefix.size());
  }
}

/// What the architecture says must be there.
struct Wanted {
  std::string name;
  std::vector<std::int64_t> shape;
};

void want_norm(const Architecture& architecture, const std::string& stem, std::int64_t width,
               std::vector<Wanted>& wanted) {
  if (architecture.norm_affine) wanted.push_back({stem + ".weight", {width}});
  if (architecture.norm_affine_bias) wanted.push_back({stem + ".bias", {width}});
}

std::vector<Wanted> wanted_outside_blocks(const Architecture& a) {
  std::vector<Wanted> wanted{{a.embedding_name, {a.vocab_size, a.embedding_size}},
                             {a.head_name, {a.vocab_size, a.embedding_size}}};
  if (a.learned_positions)
    wanted.push_back({a.position_name, {a.max_positions + kPositionOffset, a.hidden_size}});
  if (a.final_norm) want_norm(a, a.final_norm_name, a.hidden_size, wanted);
  if (!a.project_in_name.empty()) {
    wanted.push_back({a.project_in_name, {a.hidden_size, a.embedding_size}});
    wanted.push_back({a.project_out_name, {a.embedding_size, a.hidden_size}});
  }
  return wanted;
}

std::vector<Wanted> wanted_in_block(const Architecture& a, std::int64_t block) {
  const std::string prefix = fmt::format("{}{}.", a.block_prefix, block);
  std::vector<Wanted> wanted;
  for (const MatrixShape& matrix : a.matrices) {
    wanted.push_back({prefix + matrix.suffix + ".weight", {matrix.rows, matrix.cols}});
    if (matrix.bias) wanted.push_back({prefix + matrix.suffix + ".bias", {matrix.rows}});
  }
  want_norm(a, prefix + a.attention_norm_suffix, a.hidden_size, wanted);
  want_norm(a, prefix + a.mlp_norm_suffix, a.hidden_size, wanted);
  if (a.head_norms) {
    wanted.push_back({prefix + a.query_norm_suffix + ".weight", {a.head_dim}});
    wanted.push_back({prefix + a.key_norm_suffix + ".weight", {a.head_dim}});
  }
  return wanted;
}

}  // namespace

ModelDirectory::ModelDirectory(const std::filesystem::path& path) : path_(path) {
  std::error_code error;
  check<ModelError>(std::filesystem::is_directory(path_, error),
                    fmt::format("{}: no such model folder", path_.string()));
  architecture_ = read_architecture(path_ / "config.json");
  // The order of preference is transformers': the single file wins over an index beside it.
  if (std::filesystem::exists(path_ / kSingleFile, error)) {
    open_single_file();
  } else if (std::filesystem::exists(path_ / kIndexFile, error)) {
    open_shards();
  } else {
    fail_no_weights(path_);
  }
  settle_names();
  check_tensors();
}

void ModelDirectory::open_single_file() {
  shards_.emplace_back(path_ / kSingleFile);
  const auto& entries = shards_.front().tensors();
  for (std::size_t i = 0; i < entries.size(); ++i) locations_.push_back({entries[i].name, 0, i});
  std::sort(locations_.begin(), locations_.end(),
            [](const Location& a, const Location& b) { return a.name < b.name; });
}

void ModelDirectory::open_shards() {
  sharded_ = true;
  const std::string index = (path_ / kIndexFile).string();
  const ShardNames names = read_index(path_ / kIndexFile);
  std::map<std::string, std::size_t> numbers;
  for (const auto& [tensor, file] : names) numbers.emplace(file, 0);
  for (auto& [file, number] : numbers) {
    number = shards_.size();
    std::error_code error;
    check<ModelError>(std::filesystem::exists(path_ / file, error),
                      fmt::format("{}: names the shard '{}', which is missing", index, file));
    shards_.emplace_back(path_ / file);
  }
  std::map<std::string_view, std::size_t> found;  // tensor -> shard that really holds it
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    for (const TensorEntry& entry : shards_[shard].tensors()) {
      const auto [other, is_new] = found.emplace(entry.name, shard);
      check<ModelError>(is_new,
                        fmt::format("{}: tensor '{}' is in {} and in {}", index, entry.name,
                                    shards_[other->second].path().string(), shards_[shard].path().string()));
    }
  }
  for (const auto& [tensor, file] : names) {  // sorted by name already
    const std::size_t shard = numbers.at(file);
    const TensorEntry* entry = shards_[shard].find(tensor);
    if (entry == nullptr) {
      const auto actual = found.find(tensor);
      throw ModelError(fmt::format(
          "{}: says that tensor '{}' is in '{}', {}: the index is stale", index, tensor, file,
          actual == found.end()
              ? "but no shard has it"
              : fmt::format("but it is in '{}'", shards_[actual->second].path().filename().string())));
    }
    locations_.push_back({tensor, shard, static_cast<std::size_t>(entry - shards_[shard].tensors().data())});
  }
}

void ModelDirectory::settle_names() {
  Architecture shorter = architecture_;
  remove_prefix(shorter);
  if (!contains(architecture_.embedding_name) && contains(shorter.embedding_name))
    architecture_ = std::move(shorter);
  // As transformers 5 does: a head in the file is used even where the configuration ties it (they may
  // differ).
  const bool own_head = contains(architecture_.head_name);
  architecture_.tied_head = architecture_.tied_head && !own_head;
  if (architecture_.tied_head) architecture_.head_name = architecture_.embedding_name;
}

void ModelDirectory::check_tensors() const {
  const auto check_one = [&](const Wanted& wanted) {
    const TensorView found = tensor(wanted.name);
    const std::string file = shards_[found.shard].path().string();
    if (found.entry->shape != wanted.shape) {
      throw ModelError(fmt::format("{}: tensor '{}': found shape [{}], expected [{}] by config.json", file,
                                   wanted.name, fmt::join(found.entry->shape, ", "),
                                   fmt::join(wanted.shape, ", ")));
    }
    check<ModelError>(found.entry->dtype.has_value(),
                      fmt::format("{}: tensor '{}': found dtype {}, expected F32, F16 or BF16", file,
                                  wanted.name, found.entry->dtype_name));
  };
  for (const Wanted& wanted : wanted_outside_blocks(architecture_)) check_one(wanted);
  std::set<std::string> known;
  for (std::int64_t block = 0; block < architecture_.blocks; ++block) {
    for (const Wanted& wanted : wanted_in_block(architecture_, block)) {
      check_one(wanted);
      known.insert(wanted.name);
    }
  }
  check_no_others(known);
}

/// Biases, norms or blocks that config.json does not tell of: transformers would drop them with a warning,
/// and compute another model than the one that was trained.
void ModelDirectory::check_no_others(const std::set<std::string>& known) const {
  for (const Location& location : locations_) {
    const std::string& name = location.name;
    if (!name.starts_with(architecture_.block_prefix) || known.contains(name)) continue;
    if (name.ends_with(".rotary_emb.inv_freq")) continue;  // a table that older transformers saved
    throw ModelError(fmt::format(
        "{}: tensor '{}' is in a decoder block, but config.json tells of no such tensor "
        "({} blocks, model_type \"{}\"): it would be left out of all that is computed",
        shards_[location.shard].path().string(), name, architecture_.blocks, architecture_.family));
  }
}

bool ModelDirectory::contains(std::string_view name) const {
  return find(name) != nullptr;
}

const ModelDirectory::Location* ModelDirectory::find(std::string_view name) const {
  const auto found = std::lower_bound(
      locations_.begin(), locations_.end(), name,
      [](const Location& location, std::string_view wanted) { return location.name < wanted; });
  return found != locations_.end() && found->name == name ? &*found : nullptr;
}

TensorView ModelDirectory::tensor(std::string_view name) const {
  const Location* location = find(name);
  if (location == nullptr) fail_missing(name);
  const SafetensorsFile& shard = shards_[location->shard];
  const TensorEntry& entry = shard.tensors()[location->entry];
  return {&entry, location->shard, shard.data(entry)};
}

void ModelDirectory::fail_missing(std::string_view name) const {
  for (const SafetensorsFile& shard : shards_) {
    if (shard.find(name) == nullptr) continue;
    throw ModelError(fmt::format("{}: does not name tensor '{}', which is in '{}': the index is stale",
                                 (path_ / kIndexFile).string(), name, shard.path().filename().string()));
  }
  const std::filesystem::path file = sharded_ ? path_ / kIndexFile : path_ / kSingleFile;
  throw ModelError(fmt::format("{}: tensor '{}' is missing, expected by config.json (model_type {})",
                               file.string(), name, architecture_.family));
}

std::string ModelDirectory::matrix_name(std::int64_t block, std::size_t matrix) const {
  return model::matrix_name(architecture_, block, matrix);
}

DType ModelDirectory::matrix_dtype(std::int64_t block, std::size_t matrix) const {
  return tensor(matrix_name(block, matrix)).dtype();
}

std::int64_t ModelDirectory::prunable_weights() const {
  std::int64_t in_block = 0;
  for (const MatrixShape& matrix : architecture_.matrices) in_block += matrix.rows * matrix.cols;
  return in_block * architecture_.blocks;
}

void ModelDirectory::will_need_block(std::int64_t block) const noexcept {
  if (block < 0 || block >= architecture_.blocks) return;
  for (std::size_t matrix = 0; matrix < architecture_.matrices.size(); ++matrix) {
    try {
      const TensorView view = tensor(matrix_name(block, matrix));
      shards_[view.shard].mapping().will_need(view.bytes);
    } catch (const std::exception&) {  // no memory for a name: a hint may be left out
      return;
    }
  }
}

std::string ModelDirectory::digest(int threads, const std::function<void()>& beat) const {
  std::vector<std::filesystem::path> files{path_ / "config.json"};
  if (sharded_) files.push_back(path_ / kIndexFile);
  for (const SafetensorsFile& shard : shards_) files.push_back(shard.path());
  // SHA-256 of one file is one thread's work; files are independent.
  std::vector<std::string> digests(files.size());
  ThreadPool pool(std::clamp(static_cast<int>(files.size()), 1, std::max(1, threads)));
  pool.run(static_cast<std::int64_t>(files.size()), [&](std::int64_t file, int) {
    const auto index = static_cast<std::size_t>(file);
    digests[index] = sha256_of_file(files[index], beat);
  });
  std::string lines;
  for (std::size_t file = 0; file < files.size(); ++file)
    lines += fmt::format("{}  {}\n", digests[file], files[file].filename().string());
  return sha256(std::as_bytes(std::span(lines)));
}

std::string ModelDirectory::tokenizer_digest() const {
  std::error_code error;
  const std::filesystem::path file = path_ / "tokenizer.json";
  return std::filesystem::exists(file, error) ? sha256_of_file(file) : "";
}

}  // namespace fedspallm::model
