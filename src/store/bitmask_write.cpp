// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"

#include <nlohmann/json.hpp>

#include "bitmask.hpp"
#include "bitmask_layout.hpp"
#include "checksum_hex.hpp"
#include "file_io.hpp"
#include "packed_checks.hpp"
#include <unordered_map>

namespace fedspallm::store {

namespace {

using Json = nlohmann::ordered_json;

/// Appends stored bytes to the file and remembers where they are.
class Appender {
 public:
  explicit Appender(const std::filesystem::path& path) : path_(path), file_(create_file(path)) {}

  Json append(std::span<const std::byte> bytes) {
    write_at(file_, end_, bytes, path_);
    const std::int64_t begin = end_;
    end_ += static_cast<std::int64_t>(bytes.size());
    return {{"offset", begin}, {"stored", bytes.size()}, {"xxh3", to_hex(checksum(bytes))}};
  }

  /// Writes header and preamble, and makes the file durable. @return its length
  std::int64_t finish(const std::string& header) {
    const auto bytes = std::as_bytes(std::span(header));
    Preamble preamble{};
    preamble[kMagicAndVersion] = kBitmaskMagic | kBitmaskVersion << 32;
    preamble[kHeaderOffset] = static_cast<std::uint64_t>(end_);
    preamble[kHeaderBytes] = header.size();
    preamble[kHeaderChecksum] = checksum(bytes);
    preamble[kFileBytes] = preamble[kHeaderOffset] + preamble[kHeaderBytes];
    preamble[kPreambleChecksum] = checksum(std::as_bytes(std::span(preamble).first(kPreambleChecksum)));
    write_at(file_, end_, bytes, path_);
    write_at(file_, 0, std::as_bytes(std::span(preamble)), path_);
    sync(file_, path_);
    return static_cast<std::int64_t>(preamble[kFileBytes]);
  }

 private:
  std::filesystem::path path_;
  Descriptor file_;
  std::int64_t end_ = sizeof(Preamble);
};

using Packed = std::unordered_map<std::string, Json>;  // by tensor

void append_block(Appender& out, const OutputPlan& plan, const BlockRecord& record, Packed& packed) {
  for (const MatrixRecord& entry : record.matrices) {
    if (!entry.pruned) continue;
    const wire::PackedMatrix& matrix = entry.matrix;
    const OutputPlan::Place place = plan.tensors.at(entry.name);
    const Segment& segment = plan.files[place.file].segments[place.segment];
    require(segment.bytes == matrix.size() * static_cast<std::int64_t>(size_of(matrix.dtype)),
            fmt::format("{}: the record has the plan's size", entry.name));
    Json json = {{"kind", "bitmask"},    {"bytes", segment.bytes},
                 {"tensor", entry.name}, {"dtype", name_of(matrix.dtype)},
                 {"rows", matrix.rows},  {"cols", matrix.cols},
                 {"kept", matrix.kept}};
    json["mask"] = out.append(bytes_of_mask(matrix));
    json["values"] = out.append(matrix.values);
    packed[entry.name] = std::move(json);
  }
}

/// The stored form of a segment that is no pruned matrix. Widening is undone by not doing it yet.
Json append_segment(Appender& out, const model::MappedFile* mapping, const Segment& segment) {
  Json json = {{"kind", segment.kind == SegmentKind::widen ? "widen" : "raw"}, {"bytes", segment.bytes}};
  if (!segment.tensor.empty()) json["tensor"] = segment.tensor;
  if (segment.kind == SegmentKind::widen) json["dtype"] = name_of(segment.from);
  std::span<const std::byte> stored = std::as_bytes(std::span(segment.literal));
  if (segment.kind != SegmentKind::literal && segment.end > segment.begin)
    stored = mapping->bytes().subspan(static_cast<std::size_t>(segment.begin),
                                      static_cast<std::size_t>(segment.end - segment.begin));
  json["data"] = out.append(stored);
  return json;
}

Json append_file(Appender& out, const OutputFile& file, const model::MappedFile* mapping,
                 const Packed& packed) {
  std::optional<model::MappedFile> own;
  if (mapping == nullptr && file.bytes > 0) mapping = &own.emplace(file.source);
  Json segments = Json::array();
  for (const Segment& segment : file.segments) {
    const auto matrix = packed.find(segment.tensor);
    segments.push_back(matrix != packed.end() ? matrix->second : append_segment(out, mapping, segment));
  }
  return {{"name", file.name}, {"bytes", file.bytes}, {"segments", std::move(segments)}};
}

}  // namespace

std::int64_t write_bitmask_file(const std::filesystem::path& path, const model::ModelDirectory& input,
                                const OutputPlan& plan, const std::string& model_sha256,
                                const BlockSource& blocks) {
  Appender out(path);
  Packed packed;
  for (std::int64_t block = 0; block < input.architecture().blocks; ++block)
    if (const std::optional<BlockRecord> record = blocks(block)) append_block(out, plan, *record, packed);
  Json files = Json::array();
  for (std::size_t i = 0; i < plan.files.size(); ++i) {
    const bool shard = i < input.shards().size();
    files.push_back(append_file(out, plan.files[i], shard ? &input.shards()[i].mapping() : nullptr, packed));
  }
  const Json header = {{"format_version", kFormatVersion},
                       {"kind", kBitmaskKind},
                       {"model_sha256", model_sha256},
                       {"files", std::move(files)}};
  return out.finish(header.dump());
}

}  // namespace fedspallm::store
