// SPDX-License-Identifier: Apache-2.0
// Purpose: typed, range-checked access to the keys of one JSON object. A key that is absent or null takes the
// fallback; anything of another type or out of range is a ModelError: file, key, found, expected. Not public.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace fedspallm::model {

class ConfigReader {
 public:
  /// @param path  of the object within the file, "" or "rope_parameters."
  ConfigReader(const nlohmann::json& object, std::string file, std::string path = "");

  [[nodiscard]] bool has(const char* key) const;      // present and not null
  [[nodiscard]] bool is_null(const char* key) const;  // present and null
  [[nodiscard]] const nlohmann::json& value(const char* key) const;
  [[nodiscard]] const nlohmann::json& object() const { return object_; }

  /// An integer from 1 to `largest`. Without a fallback the key must be there.
  [[nodiscard]] std::int64_t size(const char* key, std::int64_t largest,
                                  std::optional<std::int64_t> fallback = {}) const;
  /// A finite number above 0.
  [[nodiscard]] double positive(const char* key, std::optional<double> fallback = {}) const;
  [[nodiscard]] bool flag(const char* key, bool fallback) const;
  [[nodiscard]] std::string text(const char* key, std::optional<std::string> fallback = {}) const;

  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

 private:
  [[noreturn]] void missing(const char* key, const std::string& expected) const;
  const nlohmann::json& object_;
  std::string file_;
  std::string path_;
};

}  // namespace fedspallm::model
