// SPDX-License-Identifier: Apache-2.0
// Purpose: small .safetensors files for tests, well formed or deliberately not.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace fedspallm::test {

/// length (u64, little-endian), header, data: whatever `header` says.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i)
    bytes[i] = static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i));
  return bytes + header + data;
}

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!stream.flush()) throw std::runtime_error("cannot write " + path.string());
}

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// Tensors in the order of add().
class SafetensorsBuilder {
 public:
  SafetensorsBuilder& add(const std::string& name, const std::string& dtype,
                          const std::vector<std::int64_t>& shape, const std::string& bytes) {
    entries_ += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                            entries_.empty() ? "" : ",", name, dtype, fmt::join(shape, ","), data_.size(),
                            data_.size() + bytes.size());
    data_ += bytes;
    return *this;
  }
  SafetensorsBuilder& add(const std::string& name, const std::vector<std::int64_t>& shape,
                          const std::vector<float>& values) {
    std::string bytes(values.size() * sizeof(float), '\0');
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return add(name, "F32", shape, bytes);
  }
  [[nodiscard]] std::string header() const { return "{" + entries_ + "}"; }
  [[nodiscard]] std::string bytes() const { return safetensors_bytes(header(), data_); }
  void write(const std::filesystem::path& path) const { write_file(path, bytes()); }

 private:
  std::string entries_, data_;
};

}  // namespace fedspallm::test
