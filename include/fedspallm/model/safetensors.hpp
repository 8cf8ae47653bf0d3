// SPDX-License-Identifier: Apache-2.0
// Purpose: read-only, memory-mapped safetensors files; every header field, offset and length is checked
// before use. Alignment of data is never assumed. Non-goals: writing (store/model_writer), dtypes of pruned
// tensors beyond f32, f16, bf16 (others are listed by name and size and passed through as bytes).
#pragma once

#include "fedspallm/base/dtype.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::model {

/// A private read-only mapping of a whole file, which must not shrink meanwhile (reading past its end is
/// SIGBUS). Move-only. @throws ModelError naming the file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Hints that a range is needed soon / no longer (madvise); never fails.
  void will_need(std::span<const std::byte> range) const noexcept;
  void drop(std::span<const std::byte> range) const noexcept;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

struct TensorEntry {
  std::string name;
  std::string dtype_name;      // as in the header, "F32", "BF16", ...
  std::optional<DType> dtype;  // set for F32, F16, BF16
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0;  // offset of the data in the file
  std::int64_t end = 0;
};

/// One .safetensors file. @throws ModelError: file, tensor, what was found, what was expected.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const std::vector<TensorEntry>& tensors() const { return tensors_; }  // by offset
  [[nodiscard]] const TensorEntry* find(std::string_view name) const;
  [[nodiscard]] std::span<const std::byte> data(const TensorEntry& entry) const;
  /// 8 + header length: what is copied byte for byte into the output.
  [[nodiscard]] std::int64_t header_bytes() const { return header_bytes_; }
  [[nodiscard]] std::int64_t file_bytes() const { return static_cast<std::int64_t>(file_.bytes().size()); }
  [[nodiscard]] const MappedFile& mapping() const { return file_; }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  std::int64_t header_bytes_ = 0;  // before tensors_, whose parser sets it
  std::vector<TensorEntry> tensors_;
  std::vector<std::size_t> by_name_;  // indices into tensors_
};

/// Parses and checks a header alone (the fuzz target's entry). `bytes` = the whole file.
/// @param[out] header_bytes  8 + header length
[[nodiscard]] std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> bytes,
                                                         const std::string& file_name,
                                                         std::int64_t& header_bytes);

}  // namespace fedspallm::model
