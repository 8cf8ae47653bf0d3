// SPDX-License-Identifier: Apache-2.0
#include "output_plan.hpp"

#include "fedspallm/base/error.hpp"

#include <nlohmann/json.hpp>

#include "file_io.hpp"
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <string_view>
#include <system_error>

namespace fedspallm::store {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kIndex = "model.safetensors.index.json";
/// Tokenizers and their like are below; what is larger and unknown is another copy of the weights.
constexpr std::int64_t kLargestSideFile = std::int64_t{256} << 20;
constexpr std::int64_t kWidenPiece = std::int64_t{1} << 20;  // weights per piece
/// Weights in other formats would be the dense model; loaders that prefer them would ignore the pruned one.
constexpr std::array<std::string_view, 12> kWeightEndings = {".safetensors", ".safetensors.index.json",
                                                             ".bin",         ".bin.index.json",
                                                             ".pt",          ".pth",
                                                             ".ckpt",        ".h5",
                                                             ".msgpack",     ".gguf",
                                                             ".onnx",        ".part"};

bool widens(const model::TensorEntry& entry) {
  return entry.dtype && *entry.dtype != DType::f32;
}

void add(OutputFile& file, Segment segment) {
  segment.offset = file.bytes;
  file.bytes += segment.bytes;
  file.segments.push_back(std::move(segment));
}

Segment copy_of(std::int64_t begin, std::int64_t end) {
  Segment segment;
  segment.bytes = end - begin;
  segment.begin = begin;
  segment.end = end;
  return segment;
}

Segment literal_of(std::string text) {
  Segment segment;
  segment.kind = SegmentKind::literal;
  segment.bytes = static_cast<std::int64_t>(text.size());
  segment.literal = std::move(text);
  return segment;
}

using Slots = std::unordered_map<std::string, MatrixSlot>;

Slots prunable_slots(const model::ModelDirectory& input) {
  Slots slots;
  const model::Architecture& architecture = input.architecture();
  for (std::int64_t block = 0; block < architecture.blocks; ++block)
    for (std::size_t matrix = 0; matrix < architecture.matrices.size(); ++matrix)
      slots.emplace(input.matrix_name(block, matrix), MatrixSlot{block, matrix});
  return slots;
}

OutputFile plan_shard(const model::SafetensorsFile& shard, const Slots& slots, bool widen) {
  OutputFile file;
  file.name = shard.path().filename().string();
  file.source = shard.path();
  add(file, widen ? literal_of(widened_header(shard)) : copy_of(0, shard.header_bytes()));
  for (const model::TensorEntry& entry : shard.tensors()) {
    Segment segment = copy_of(entry.begin, entry.end);
    if (widen && widens(entry)) {
      segment.kind = SegmentKind::widen;
      segment.from = *entry.dtype;
      segment.bytes *= 2;
    }
    segment.tensor = entry.name;
    if (const auto slot = slots.find(entry.name); slot != slots.end()) segment.matrix = slot->second;
    add(file, std::move(segment));
  }
  const std::int64_t covered = shard.tensors().empty() ? shard.header_bytes() : shard.tensors().back().end;
  check<ModelError>(covered == shard.file_bytes(),
                    fmt::format("{}: tensors end at byte {}, the file at {}", shard.path().string(), covered,
                                shard.file_bytes()));
  return file;
}

/// The data of all tensors, as the index counts them.
std::int64_t tensor_bytes(const std::vector<OutputFile>& files) {
  std::int64_t bytes = 0;
  for (const OutputFile& file : files)
    for (const Segment& segment : file.segments)
      if (!segment.tensor.empty()) bytes += segment.bytes;
  return bytes;
}

Json parse_json_file(const std::filesystem::path& path) {
  Json json = Json::parse(read_small_file(path, kLargestSideFile), nullptr, false);
  check<ModelError>(!json.is_discarded() && json.is_object(),
                    fmt::format("{}: is not a JSON object", path.string()));
  return json;
}

std::string widened_config(const std::filesystem::path& path) {
  Json json = parse_json_file(path);
  for (const char* key : {"torch_dtype", "dtype"})
    if (json.contains(key)) json[key] = "float32";
  return json.dump(2) + "\n";
}

std::string widened_index(const std::filesystem::path& path, std::int64_t total) {
  Json json = parse_json_file(path);
  check<ModelError>(!json.contains("metadata") || json["metadata"].is_object(),
                    fmt::format("{}: key 'metadata' is no object", path.string()));
  json["metadata"]["total_size"] = total;
  return json.dump(2) + "\n";
}

bool is_side_file(const std::string& name, const std::set<std::string>& shards) {
  if (shards.contains(name)) return false;
  return std::none_of(kWeightEndings.begin(), kWeightEndings.end(),
                      [&](std::string_view ending) { return name.ends_with(ending); });
}

/// Names of the files to copy beside the shards, sorted.
std::vector<std::string> side_files(const model::ModelDirectory& input, const std::set<std::string>& shards) {
  std::vector<std::string> names;
  if (input.sharded()) names.emplace_back(kIndex);
  for (const auto& entry : std::filesystem::directory_iterator(input.path())) {
    const std::string name = entry.path().filename().string();
    if (!is_side_file(name, shards)) continue;
    std::error_code error;
    const auto status =
        std::filesystem::status(entry.path(), error);  // follows links: Hugging Face caches are made of them
    if (!std::filesystem::exists(status)) {
      // Editors' lock files are dangling links on purpose; a dangling tokenizer.json is a broken model.
      check<ModelError>(name.front() == '.',
                        fmt::format("{}: is a symbolic link to nothing", entry.path().string()));
      continue;
    }
    if (!std::filesystem::is_regular_file(status)) continue;
    if (std::filesystem::file_size(entry.path()) <= static_cast<std::uintmax_t>(kLargestSideFile))
      names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

OutputFile plan_side_file(const model::ModelDirectory& input, const std::string& name, bool widen,
                          std::int64_t total) {
  OutputFile file;
  file.name = name;
  file.source = input.path() / name;
  if (widen && name == "config.json")
    add(file, literal_of(widened_config(file.source)));
  else if (widen && name == kIndex)
    add(file, literal_of(widened_index(file.source, total)));
  else
    add(file, copy_of(0, static_cast<std::int64_t>(std::filesystem::file_size(file.source))));
  return file;
}

}  // namespace

std::int64_t OutputPlan::bytes() const {
  std::int64_t sum = 0;
  for (const OutputFile& file : files) sum += file.bytes;
  return sum;
}

std::string widened_header(const model::SafetensorsFile& shard) {
  const auto header = shard.mapping().bytes().subspan(8, static_cast<std::size_t>(shard.header_bytes() - 8));
  Json json = Json::parse(reinterpret_cast<const char*>(header.data()),
                          reinterpret_cast<const char*>(header.data()) + header.size());
  std::int64_t end = 0;
  for (const model::TensorEntry& entry : shard.tensors()) {
    const std::int64_t begin = end;
    end += (entry.end - entry.begin) * (widens(entry) ? 2 : 1);
    Json& tensor = json.at(entry.name);
    if (widens(entry)) tensor["dtype"] = "F32";
    tensor["data_offsets"] = {begin, end};
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + text;
}

OutputPlan plan_output(const model::ModelDirectory& input, bool widen) {
  OutputPlan plan;
  plan.widen = widen;
  const Slots slots = prunable_slots(input);
  std::set<std::string> shards;
  for (const model::SafetensorsFile& shard : input.shards()) {
    plan.files.push_back(plan_shard(shard, slots, widen));
    shards.insert(plan.files.back().name);
  }
  for (std::size_t f = 0; f < plan.files.size(); ++f)
    for (std::size_t s = 0; s < plan.files[f].segments.size(); ++s)
      if (!plan.files[f].segments[s].tensor.empty()) plan.tensors[plan.files[f].segments[s].tensor] = {f, s};
  const std::int64_t total = tensor_bytes(plan.files);
  for (const std::string& name : side_files(input, shards))
    plan.files.push_back(plan_side_file(input, name, widen, total));
  return plan;
}

void for_each_piece(const model::MappedFile* mapping, const Segment& segment,
                    const std::function<void(std::span<const std::byte>)>& consume) {
  if (segment.kind == SegmentKind::literal) return consume(std::as_bytes(std::span(segment.literal)));
  require(mapping != nullptr, "segments of a file are read from its mapping");
  const auto source = mapping->bytes().subspan(static_cast<std::size_t>(segment.begin),
                                               static_cast<std::size_t>(segment.end - segment.begin));
  if (segment.kind == SegmentKind::copy) return consume(source);
  const auto width = static_cast<std::int64_t>(size_of(segment.from));
  const std::int64_t count = (segment.end - segment.begin) / width;
  std::vector<float> piece(static_cast<std::size_t>(std::min(count, kWidenPiece)));
  for (std::int64_t begin = 0; begin < count; begin += kWidenPiece) {
    const auto size = static_cast<std::size_t>(std::min(kWidenPiece, count - begin));
    widen(segment.from, source.data() + begin * width, piece.data(), size);
    consume(std::as_bytes(std::span(piece).first(size)));
  }
}

}  // namespace fedspallm::store
