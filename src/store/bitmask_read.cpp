// SPDX-License-Identifier: Apache-2.0
// Reads model.fspm. The file may come from anywhere: checksums first, then every size before it is used.
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/model/json_text.hpp"
#include "fedspallm/store/json_fields.hpp"

#include "bitmask.hpp"
#include "bitmask_layout.hpp"
#include "checksum_hex.hpp"
#include "file_io.hpp"
#include "packed_checks.hpp"
#include <algorithm>
#include <array>
#include <cstring>
#include <set>

namespace fedspallm::store {

namespace {

using Json = nlohmann::json;

constexpr std::int64_t kWidenPiece = std::int64_t{1} << 20;

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw DataError(fmt::format(format, std::forward<Args>(args)...));
}

DType dtype_of(const std::string& name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    if (name == name_of(dtype)) return dtype;
  fail("dtype '{}', expected float32, float16 or bfloat16", name);
}

/// A non-negative integer of the header.
std::int64_t count_of(const Json& json, const char* key) {
  return static_cast<std::int64_t>(whole_number(json, key));
}

/// The whole file, mapped; the header, parsed.
class Container {
 public:
  explicit Container(const std::filesystem::path& path) : map_(path) {
    const auto bytes = map_.bytes();
    Preamble preamble{};
    if (bytes.size() < sizeof(preamble))
      fail("{} bytes, expected at least {}", bytes.size(), sizeof(preamble));
    std::memcpy(preamble.data(), bytes.data(), sizeof(preamble));
    if ((preamble[kMagicAndVersion] & 0xFFFFFFFF) != kBitmaskMagic) fail("magic differs, expected FSPM");
    if (checksum(std::as_bytes(std::span(preamble).first(kPreambleChecksum))) != preamble[kPreambleChecksum])
      fail("the first 64 bytes are damaged");
    if (preamble[kMagicAndVersion] >> 32 != kBitmaskVersion)
      fail("version {}, expected {}", preamble[kMagicAndVersion] >> 32, kBitmaskVersion);
    if (preamble[kFileBytes] != bytes.size())
      fail("torn: {} bytes, expected {}", bytes.size(), preamble[kFileBytes]);
    const auto header = range(preamble[kHeaderOffset], preamble[kHeaderBytes]);
    if (checksum(header) != preamble[kHeaderChecksum]) fail("the header is damaged");
    header_ = model::parse_json({reinterpret_cast<const char*>(header.data()), header.size()},
                                path.string() + ": header");
    if (header_.at("kind").get<std::string>() != kBitmaskKind)
      fail("kind differs, expected '{}'", kBitmaskKind);
    if (count_of(header_, "format_version") != kFormatVersion)
      fail("format_version differs, expected {}", kFormatVersion);
  }

  [[nodiscard]] const Json& header() const { return header_; }

  /// The stored bytes that {"offset", "stored", "xxh3"} describes, verified. Everything is stored for one
  /// purpose: a file in which many segments are the same bytes would unpack to any size.
  [[nodiscard]] std::span<const std::byte> stored(const Json& json) {
    const auto bytes = range(static_cast<std::uint64_t>(count_of(json, "offset")),
                             static_cast<std::uint64_t>(count_of(json, "stored")));
    used_ += bytes.size();
    if (used_ > map_.bytes().size()) fail("segments of more bytes than the file's {}", map_.bytes().size());
    if (checksum(bytes) != from_hex(json.at("xxh3").get<std::string>()))
      fail("the {} bytes from {} on are damaged", bytes.size(), count_of(json, "offset"));
    return bytes;
  }

 private:
  [[nodiscard]] std::span<const std::byte> range(std::uint64_t offset, std::uint64_t length) const {
    const auto bytes = map_.bytes();
    if (offset > bytes.size() || length > bytes.size() - offset)
      fail("bytes {} + {} lie beyond the file's {}", offset, length, bytes.size());
    return bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(length));
  }

  model::MappedFile map_;
  Json header_;
  std::size_t used_ = 0;
};

/// Writes the segments of one file in turn.
class FileUnpacker {
 public:
  FileUnpacker(Container& container, const std::filesystem::path& path)
      : container_(container), path_(path), file_(create_file(path)) {}

  void add(const Json& segment) {
    const std::int64_t begin = end_;
    const auto kind = segment.at("kind").get<std::string>();
    if (kind == "raw")
      append(container_.stored(segment.at("data")));
    else if (kind == "widen")
      add_widened(segment);
    else if (kind == "bitmask")
      add_matrix(segment);
    else
      fail("segment kind '{}', expected raw, widen or bitmask", kind);
    if (end_ - begin != count_of(segment, "bytes"))
      fail("a segment of {} bytes, expected {}", end_ - begin, count_of(segment, "bytes"));
  }

  std::int64_t finish() {
    sync(file_, path_);
    return end_;
  }

 private:
  void append(std::span<const std::byte> bytes) {
    write_at(file_, end_, bytes, path_);
    end_ += static_cast<std::int64_t>(bytes.size());
  }

  void add_widened(const Json& json) {
    const DType dtype = dtype_of(json.at("dtype").get<std::string>());
    if (dtype == DType::f32) fail("widening of float32, expected float16 or bfloat16");
    const auto source = container_.stored(json.at("data"));
    const std::size_t width = size_of(dtype);
    if (source.size() % width != 0)
      fail("{} bytes of {}, expected whole elements", source.size(), name_of(dtype));
    const auto count = static_cast<std::int64_t>(source.size() / width);
    std::vector<float> piece(static_cast<std::size_t>(std::min(count, kWidenPiece)));
    for (std::int64_t begin = 0; begin < count; begin += kWidenPiece) {
      const auto size = static_cast<std::size_t>(std::min(kWidenPiece, count - begin));
      widen(dtype, source.data() + static_cast<std::size_t>(begin) * width, piece.data(), size);
      append(std::as_bytes(std::span(piece).first(size)));
    }
  }

  void add_matrix(const Json& json) {
    wire::PackedMatrix matrix;
    matrix.dtype = dtype_of(json.at("dtype").get<std::string>());
    matrix.rows = count_of(json, "rows");
    matrix.cols = count_of(json, "cols");
    matrix.kept = count_of(json, "kept");
    const std::int64_t size = checked_size(matrix.rows, matrix.cols, "a matrix");
    const auto mask = container_.stored(json.at("mask"));
    if (static_cast<std::int64_t>(mask.size()) != mask_bytes(size))
      fail("a mask of {} bytes, expected {}", mask.size(), mask_bytes(size));
    matrix.bits = words_of_mask(mask, size);
    const auto values = container_.stored(json.at("values"));
    matrix.values.assign(values.begin(), values.end());
    if (const std::string fault = packing_fault(matrix); !fault.empty()) fail("{}", fault);
    const auto width = static_cast<std::int64_t>(size_of(matrix.dtype));
    std::vector<std::byte> dense;
    std::int64_t value = 0;
    for (std::int64_t begin = 0; begin < size; begin += kSliceWeights) {
      const std::int64_t end = std::min(begin + kSliceWeights, size);
      dense.resize(static_cast<std::size_t>((end - begin) * width));
      wire::unpack_stored(wire::slice(matrix, begin, end, value), dense);
      append(dense);
    }
  }

  Container& container_;
  std::filesystem::path path_;
  Descriptor file_;
  std::int64_t end_ = 0;
};

constexpr std::size_t kLongestName = 255;  // bytes, of any usual file system

/// Names are a stranger's: only plain ones, each once.
std::string plain_name(const Json& json, std::set<std::string>& seen) {
  const auto name = json.at("name").get<std::string>();
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos && name.size() <= kLongestName;
  // As JSON: control characters are spelled out.
  if (!plain)
    fail("file name {}, expected one of at most {} bytes, without folders", model::show(json.at("name")),
         kLongestName);
  if (!seen.insert(name).second) fail("file name '{}' occurs twice", name);
  return name;
}

std::int64_t unpack_files(Container&& container, const std::filesystem::path& folder) {
  std::set<std::string> seen;
  std::int64_t needed = 0;
  for (const Json& file : container.header().at("files"))
    if (__builtin_add_overflow(needed, count_of(file, "bytes"), &needed))
      fail("files of more than 2^63 bytes");
  require_free_space(folder, needed);
  for (const Json& file : container.header().at("files")) {
    const std::string name = plain_name(file, seen);
    FileUnpacker unpacker(container, folder / name);
    for (const Json& segment : file.at("segments")) {
      try {
        unpacker.add(segment);
      } catch (const DataError& error) {
        fail("{}: {}: {}", name, segment.value("tensor", "a part"), error.what());
      }
    }
    const std::int64_t bytes = unpacker.finish();
    if (bytes != count_of(file, "bytes"))
      fail("{}: {} bytes, expected {}", name, bytes, count_of(file, "bytes"));
  }
  return needed;
}

/// Runs `use` and gives its errors the file's name.
template <class Use>
auto with_name(const std::filesystem::path& path, Use use) {
  try {
    return use();
  } catch (const nlohmann::json::exception& error) {
    throw DataError(fmt::format("{}: malformed header: {}", path.string(), error.what()));
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: {}", path.string(), error.what()));
  } catch (const ModelError& error) {
    throw DataError(error.what());  // of the mapping or the JSON, which name the file
  }
}

}  // namespace

std::int64_t unpack_bitmask_file(const std::filesystem::path& path, const std::filesystem::path& folder) {
  return with_name(path, [&] { return unpack_files(Container(path), folder); });
}

std::string model_digest_of_bitmask_file(const std::filesystem::path& path) {
  return with_name(path, [&] { return Container(path).header().at("model_sha256").get<std::string>(); });
}

}  // namespace fedspallm::store
