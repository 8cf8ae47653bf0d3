// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/model/safetensors.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/model/json_text.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace fedspallm::model {

namespace {

using nlohmann::json;

constexpr std::uint64_t kLongestHeader = 100'000'000;
constexpr std::size_t kLengthBytes = 8;

struct DTypeName {
  std::string_view name;
  std::int64_t bits;
  std::optional<DType> dtype;
};

// Every dtype of the format (safetensors 0.8). Those without a DType are listed and passed through.
constexpr std::array kDTypes = {
    DTypeName{"F32", 32, DType::f32}, DTypeName{"F16", 16, DType::f16}, DTypeName{"BF16", 16, DType::bf16},
    DTypeName{"BOOL", 8, {}},         DTypeName{"U8", 8, {}},           DTypeName{"I8", 8, {}},
    DTypeName{"F8_E5M2", 8, {}},      DTypeName{"F8_E4M3", 8, {}},      DTypeName{"F8_E8M0", 8, {}},
    DTypeName{"F8_E4M3FNUZ", 8, {}},  DTypeName{"F8_E5M2FNUZ", 8, {}},  DTypeName{"I16", 16, {}},
    DTypeName{"U16", 16, {}},         DTypeName{"I32", 32, {}},         DTypeName{"U32", 32, {}},
    DTypeName{"C64", 64, {}},         DTypeName{"F64", 64, {}},         DTypeName{"I64", 64, {}},
    DTypeName{"U64", 64, {}},         DTypeName{"F4", 4, {}},           DTypeName{"F6_E2M3", 6, {}},
    DTypeName{"F6_E3M2", 6, {}},
};

/// The header of one file: its JSON, where it comes from and how many bytes of data follow it.
class HeaderReader {
 public:
  HeaderReader(const std::string& file, std::int64_t header_bytes, std::int64_t data_bytes)
      : file_(file), header_bytes_(header_bytes), data_bytes_(data_bytes) {}

  [[nodiscard]] TensorEntry entry(const std::string& name, const json& description) const {
    TensorEntry result;
    result.name = name;
    if (!description.is_object()) fail(name, fmt::format("found {}, expected an object", show(description)));
    read_shape(member(name, description, "shape"), result);
    const std::int64_t bytes = size_in_bytes(member(name, description, "dtype"), result);
    read_offsets(member(name, description, "data_offsets"), result);
    if (result.end - result.begin != bytes) {
      fail(name,
           fmt::format("its data_offsets span {} bytes, expected {} for {} of shape [{}]",
                       result.end - result.begin, bytes, result.dtype_name, fmt::join(result.shape, ", ")));
    }
    return result;
  }

  /// `entries` sorted by offset must fill the data without gap or overlap.
  void check_cover(const std::vector<TensorEntry>& entries) const {
    std::int64_t position = header_bytes_;
    for (const TensorEntry& entry : entries) {
      if (entry.begin != position) {
        fail(entry.name,
             fmt::format("its data begin at {}, expected {}: tensors {}", entry.begin - header_bytes_,
                         position - header_bytes_, entry.begin < position ? "overlap" : "leave a gap"));
      }
      position = entry.end;
    }
    const std::int64_t found = header_bytes_ + data_bytes_;
    if (position == found) return;
    throw ModelError(fmt::format("{}: the last tensor ends at byte {}, but the file has {} bytes: it is {}",
                                 file_, position, found,
                                 found < position ? "truncated" : "longer than its header says"));
  }

  void check_metadata(const json& metadata) const {
    if (!metadata.is_object())
      fail("__metadata__", fmt::format("found {}, expected an object", show(metadata)));
    for (const auto& [key, value] : metadata.items())
      if (!value.is_string())
        fail("__metadata__", fmt::format("'{}' is {}, expected a string", key, show(value)));
  }

 private:
  [[noreturn]] void fail(const std::string& tensor, const std::string& what) const {
    throw ModelError(fmt::format("{}: tensor '{}': {}", file_, tensor, what));
  }

  [[nodiscard]] const json& member(const std::string& name, const json& description, const char* key) const {
    const auto found = description.find(key);
    if (found == description.end()) fail(name, fmt::format("'{}' is missing", key));
    return *found;
  }

  /// A non-negative integer below 2^63.
  [[nodiscard]] std::int64_t integer(const std::string& name, const char* key, const json& value) const {
    constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kLargest)
      fail(name, fmt::format("{} holds {}, expected an integer from 0 to 2^63 - 1", key, show(value)));
    return value.get<std::int64_t>();
  }

  void read_shape(const json& shape, TensorEntry& result) const {
    if (!shape.is_array()) fail(result.name, fmt::format("shape is {}, expected a list", show(shape)));
    for (const json& extent : shape) result.shape.push_back(integer(result.name, "shape", extent));
  }

  [[nodiscard]] std::int64_t size_in_bytes(const json& dtype, TensorEntry& result) const {
    if (!dtype.is_string()) fail(result.name, fmt::format("dtype is {}, expected a string", show(dtype)));
    result.dtype_name = dtype.get<std::string>();
    const auto known = std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeName& candidate) {
      return candidate.name == result.dtype_name;
    });
    if (known == kDTypes.end()) fail(result.name, fmt::format("unknown dtype {}", show(dtype)));
    result.dtype = known->dtype;
    std::int64_t bits = known->bits;
    for (const std::int64_t extent : result.shape) {
      if (__builtin_mul_overflow(bits, extent, &bits))
        fail(result.name, fmt::format("shape [{}] is larger than 2^63 bits", fmt::join(result.shape, ", ")));
    }
    if (bits % 8 != 0)
      fail(result.name, fmt::format("shape [{}] of {} is not a whole number of bytes",
                                    fmt::join(result.shape, ", "), result.dtype_name));
    return bits / 8;
  }

  void read_offsets(const json& offsets, TensorEntry& result) const {
    if (!offsets.is_array() || offsets.size() != 2)
      fail(result.name, fmt::format("data_offsets is {}, expected [begin, end]", show(offsets)));
    const std::int64_t begin = integer(result.name, "data_offsets", offsets[0]);
    const std::int64_t end = integer(result.name, "data_offsets", offsets[1]);
    if (begin > end)
      fail(result.name, fmt::format("data_offsets is [{}, {}], expected begin <= end", begin, end));
    if (end > data_bytes_) {
      fail(result.name,
           fmt::format(
               "data_offsets is [{}, {}], but only {} bytes of data follow the header: the file is truncated",
               begin, end, data_bytes_));
    }
    result.begin = header_bytes_ + begin;
    result.end = header_bytes_ + end;
  }

  const std::string& file_;
  std::int64_t header_bytes_;
  std::int64_t data_bytes_;
};

/// The header's length, checked against the file.
std::uint64_t header_length(std::span<const std::byte> bytes, const std::string& file) {
  check<ModelError>(
      bytes.size() >= kLengthBytes,
      fmt::format("{}: has {} bytes, expected a safetensors file, which has at least 8", file, bytes.size()));
  constexpr std::string_view kPointer = "version https://git-lfs.github.com/";
  const std::string_view begin(reinterpret_cast<const char*>(bytes.data()),
                               std::min(bytes.size(), kPointer.size()));
  check<ModelError>(
      begin != kPointer,
      fmt::format("{}: found a git-lfs pointer of {} bytes, expected the weights that it stands "
                  "for; run 'git lfs pull' in its folder",
                  file, bytes.size()));
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i)  // little-endian
    length |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
  check<ModelError>(
      length <= kLongestHeader,
      fmt::format("{}: its header claims {} bytes, expected at most {}", file, length, kLongestHeader));
  check<ModelError>(length <= bytes.size() - kLengthBytes,
                    fmt::format("{}: its header claims {} bytes, but only {} follow: the file is truncated",
                                file, length, bytes.size() - kLengthBytes));
  return length;
}

}  // namespace

std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> bytes, const std::string& file_name,
                                           std::int64_t& header_bytes) {
  const std::uint64_t length = header_length(bytes, file_name);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  check<ModelError>(text.starts_with('{'), fmt::format("{}: its header does not start with '{{'", file_name));
  const json document = parse_json(text, file_name);
  header_bytes = static_cast<std::int64_t>(length + kLengthBytes);
  const HeaderReader reader(file_name, header_bytes, static_cast<std::int64_t>(bytes.size()) - header_bytes);
  std::vector<TensorEntry> entries;
  for (const auto& [name, description] : document.items()) {
    if (name == "__metadata__") {
      reader.check_metadata(description);
    } else {
      entries.push_back(reader.entry(name, description));
    }
  }
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  reader.check_cover(entries);
  return entries;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), file_(path), tensors_(parse_safetensors(file_.bytes(), path.string(), header_bytes_)) {
  by_name_.resize(tensors_.size());
  for (std::size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = i;
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](std::size_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  return found != by_name_.end() && tensors_[*found].name == name ? &tensors_[*found] : nullptr;
}

std::span<const std::byte> SafetensorsFile::data(const TensorEntry& entry) const {
  require(0 <= entry.begin && entry.begin <= entry.end && entry.end <= file_bytes(),
          "the entry belongs to this file");
  return file_.bytes().subspan(static_cast<std::size_t>(entry.begin),
                               static_cast<std::size_t>(entry.end - entry.begin));
}

}  // namespace fedspallm::model
