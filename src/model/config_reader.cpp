// SPDX-License-Identifier: Apache-2.0
#include "config_reader.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/model/json_text.hpp"

#include <cmath>
#include <utility>

namespace fedspallm::model {

ConfigReader::ConfigReader(const nlohmann::json& object, std::string file, std::string path)
    : object_(object), file_(std::move(file)), path_(std::move(path)) {
  check<ModelError>(object_.is_object(), fmt::format("{}: {}found {}, expected an object", file_,
                                                     path_.empty() ? "" : path_ + ": ", show(object_)));
}

void ConfigReader::fail(const std::string& key, const std::string& what) const {
  throw ModelError(fmt::format("{}: key '{}{}': {}", file_, path_, key, what));
}

void ConfigReader::missing(const char* key, const std::string& expected) const {
  fail(key, fmt::format("is missing, expected {}", expected));
}

bool ConfigReader::has(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

bool ConfigReader::is_null(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && found->is_null();
}

const nlohmann::json& ConfigReader::value(const char* key) const {
  return object_.at(key);
}

std::int64_t ConfigReader::size(const char* key, std::int64_t largest,
                                std::optional<std::int64_t> fallback) const {
  const std::string expected = fmt::format("an integer from 1 to {}", largest);
  if (!has(key)) {
    if (!fallback) missing(key, expected);
    return *fallback;
  }
  const nlohmann::json& found = value(key);
  const bool fits = found.is_number_unsigned() && found.get<std::uint64_t>() >= 1 &&
                    found.get<std::uint64_t>() <= static_cast<std::uint64_t>(largest);
  if (!fits) fail(key, fmt::format("found {}, expected {}", show(found), expected));
  return found.get<std::int64_t>();
}

double ConfigReader::positive(const char* key, std::optional<double> fallback) const {
  if (!has(key)) {
    if (!fallback) missing(key, "a number above 0");
    return *fallback;
  }
  const nlohmann::json& found = value(key);
  const double number = found.is_number() ? found.get<double>() : 0.0;
  if (!std::isfinite(number) || number <= 0)
    fail(key, fmt::format("found {}, expected a number above 0", show(found)));
  return number;
}

bool ConfigReader::flag(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!value(key).is_boolean()) fail(key, fmt::format("found {}, expected true or false", show(value(key))));
  return value(key).get<bool>();
}

std::string ConfigReader::text(const char* key, std::optional<std::string> fallback) const {
  if (!has(key)) {
    if (!fallback) missing(key, "a string");
    return *fallback;
  }
  if (!value(key).is_string()) fail(key, fmt::format("found {}, expected a string", show(value(key))));
  return value(key).get<std::string>();
}

}  // namespace fedspallm::model
