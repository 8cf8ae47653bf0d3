// SPDX-License-Identifier: Apache-2.0
#include "values.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/ranges.h>

#include "suggest.hpp"
#include <algorithm>
#include <cmath>

namespace fedspallm::config {

namespace {

constexpr std::size_t kLongestShown = 60;  // bytes of a found string in a message
constexpr std::size_t kLongestName = 100;  // bytes; leaves room for endings within the usual limit of 255

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(), is_control);
}

/// At most kLongestShown bytes, not cut inside a UTF-8 character.
std::string shortened(std::string_view text) {
  if (text.size() <= kLongestShown) return toml_string(text);
  std::size_t end = kLongestShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return toml_string(text.substr(0, end)) + "...";
}

std::string number_text(double value) {
  return std::isfinite(value) ? fmt::format("{}", value)
                              : std::string(std::isnan(value) ? "nan"
                                            : value > 0       ? "inf"
                                                              : "-inf");
}

Mismatch mismatch(const Value& value, const std::string& expected) {
  return fmt::format("found {}, expected {}", describe(value.node), expected);
}

/// Like mismatch(), and says that a number in quotes is no number.
Mismatch wrong_type(const Value& value, const std::string& expected) {
  return fmt::format("found {}{}, expected {}", value.node.is_string() ? "the string " : "",
                     describe(value.node), expected);
}

Mismatch path_of(const std::string& text, const std::filesystem::path& folder, std::filesystem::path& out) {
  if (text.empty()) return "found \"\", expected a path";
  if (has_control(text))
    return fmt::format("found {}, expected a path without control characters", shortened(text));
  if (text == "~" || text.starts_with("~/"))
    return fmt::format("found {}, expected a path without '~' (only a shell expands it)", shortened(text));
  std::filesystem::path path = (folder / text).lexically_normal();
  if (!path.has_filename() && path.has_relative_path()) path = path.parent_path();  // "folder/" is "folder"
  out = std::move(path);
  return {};
}

}  // namespace

std::string describe(const toml::node& node) {
  if (const auto* text = node.as_string()) return shortened(text->get());
  if (const auto* integer = node.as_integer()) return fmt::format("{}", integer->get());
  if (const auto* real = node.as_floating_point())
    return std::isfinite(real->get()) ? float_text(real->get()) : number_text(real->get());
  if (const auto* boolean = node.as_boolean()) return boolean->get() ? "true" : "false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a date or time";
}

std::string toml_string(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (is_control(c)) {
      result += fmt::format("\\u{:04X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string float_text(double value) {
  require(std::isfinite(value), "a finite number");
  const std::string text = fmt::format("{}", value);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

Mismatch read_boolean(const Value& value, bool& out) {
  const auto* boolean = value.node.as_boolean();
  if (boolean == nullptr) return wrong_type(value, "true or false");
  out = boolean->get();
  return {};
}

Mismatch read_integer(const Value& value, std::int64_t low, std::int64_t high, std::int64_t& out) {
  require(low <= high, "low <= high");
  const bool endless = high == std::numeric_limits<std::int64_t>::max();
  const std::string expected = endless ? fmt::format("an integer of at least {}", low)
                                       : fmt::format("an integer from {} to {}", low, high);
  const auto* integer = value.node.as_integer();
  if (integer == nullptr) return wrong_type(value, expected);
  if (integer->get() < low || integer->get() > high) return mismatch(value, expected);
  out = integer->get();
  return {};
}

Mismatch read_integers(const Value& value, std::int64_t low, std::int64_t high,
                       std::vector<std::int64_t>& out) {
  const auto* list = value.node.as_array();
  if (list == nullptr)
    return mismatch(value, fmt::format("a list of integers from {} to {}, as [{}]", low, high, low));
  std::vector<std::int64_t> numbers;
  for (const toml::node& item : *list) {
    std::int64_t number = 0;
    const std::string no_word;
    if (Mismatch found = read_integer({item, no_word, value.folder}, low, high, number); !found.empty())
      return found + " in the list";
    if (!numbers.empty() && number <= numbers.back())
      return fmt::format("found {} after {}, expected an ascending list", number, numbers.back());
    numbers.push_back(number);
  }
  out = std::move(numbers);
  return {};
}

Mismatch read_real(const Value& value, const RealRange& range, double& out) {
  const std::string expected = range.open_low
                                   ? fmt::format("a number above {} and at most {}", range.low, range.high)
                                   : fmt::format("a number from {} to {}", range.low, range.high);
  double number = 0;
  if (const auto* real = value.node.as_floating_point())
    number = real->get();
  else if (const auto* integer = value.node.as_integer())
    number = static_cast<double>(integer->get());
  else
    return wrong_type(value, expected);
  const bool inside = (range.open_low ? number > range.low : number >= range.low) && number <= range.high;
  if (!inside) return mismatch(value, expected);  // NaN is never inside
  out = number == 0 ? 0 : number;                 // -0.0 is 0
  return {};
}

Mismatch read_string(const Value& value, const std::string& expected, std::string& out) {
  if (const auto* text = value.node.as_string()) {
    out = text->get();
    return {};
  }
  // On the command line 2024 may well be meant as a name.
  if (!value.word.empty() && !value.node.is_array() && !value.node.is_table()) {
    out = value.word;
    return {};
  }
  return mismatch(value, expected);
}

Mismatch read_path(const Value& value, std::filesystem::path& out) {
  std::string text;
  if (Mismatch found = read_string(value, "a path in quotes", text); !found.empty()) return found;
  return path_of(text, value.folder, out);
}

Mismatch read_paths(const Value& value, std::vector<std::filesystem::path>& out) {
  std::vector<std::filesystem::path> paths;
  const auto* list = value.node.as_array();
  if (list == nullptr) {
    std::string text;
    if (Mismatch found = read_string(value, "a path in quotes or a list of paths", text); !found.empty())
      return found;
    if (Mismatch found = path_of(text, value.folder, paths.emplace_back()); !found.empty()) return found;
  } else {
    if (list->empty()) return "found an empty list, expected at least one path";
    for (const toml::node& item : *list) {
      const auto* text = item.as_string();
      if (text == nullptr)
        return fmt::format("found {} in the list, expected paths in quotes", describe(item));
      if (Mismatch found = path_of(text->get(), value.folder, paths.emplace_back()); !found.empty())
        return found;
    }
  }
  out = std::move(paths);
  return {};
}

Mismatch read_choice(const Value& value, const std::vector<std::string>& names, std::size_t& index) {
  std::vector<std::string> shown;
  for (const std::string& name : names) shown.push_back(toml_string(name));
  const std::string expected = fmt::format("{}{}", names.size() > 1 ? "one of " : "", fmt::join(shown, ", "));
  std::string text;
  if (Mismatch found = read_string(value, expected, text); !found.empty()) return found;
  const auto place = std::find(names.begin(), names.end(), text);
  if (place == names.end())
    return fmt::format("found {}, expected {}{}", shortened(text), expected, did_you_mean(text, names));
  index = static_cast<std::size_t>(place - names.begin());
  return {};
}

Mismatch read_name(const Value& value, std::string& out) {
  std::string text;
  if (Mismatch found = read_string(value, "a name in quotes", text); !found.empty()) return found;
  std::string expected;
  if (text.empty())
    expected = "a name that is not empty";
  else if (text == "." || text == "..")
    expected = "a name that can be part of a file name";
  else if (text.find_first_of("/\\") != std::string::npos)
    expected = "a name without slashes (it becomes a file name)";
  else if (has_control(text))
    expected = "a name without control characters";
  else if (text.size() > kLongestName)
    expected = fmt::format("a name of at most {} bytes", kLongestName);
  if (!expected.empty()) return fmt::format("found {}, expected {}", shortened(text), expected);
  out = std::move(text);
  return {};
}

}  // namespace fedspallm::config
