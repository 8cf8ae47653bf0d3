// SPDX-License-Identifier: Apache-2.0
#include "suggest.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/config/config.hpp"

#include <fmt/ranges.h>

#include "document.hpp"
#include <algorithm>
#include <utility>

namespace fedspallm::config {

namespace {

/// "client.NAME.tokens" -> ("client", "tokens")
struct FullName {
  std::string section;
  std::string key;
  std::string text;
};

const std::vector<FullName>& full_names() {
  static const std::vector<FullName> names = [] {
    std::vector<FullName> result;
    for (const std::string& text : known_keys())
      result.push_back({text.substr(0, text.find('.')), text.substr(text.rfind('.') + 1), text});
    return result;
  }();
  return names;
}

/// nearest_name(), and among equally near ones one with the same first letter: those are seldom mistyped.
std::string nearest_of(const std::string& word, std::vector<std::string> known) {
  std::stable_partition(known.begin(), known.end(),
                        [&](const std::string& name) { return name.substr(0, 1) == word.substr(0, 1); });
  return nearest_name(word, known.data(), known.size());
}

}  // namespace

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  // What people call a thing that goes by another name here, not one mistyped.
  for (const auto& [usual, name] : {std::pair{"gpu", "cuda"}, {"nvidia", "cuda"}})
    if (word == usual && std::find(known.begin(), known.end(), name) != known.end())
      return fmt::format("; did you mean '{}'?", name);
  const std::string nearest = nearest_of(word, known);
  return nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest);
}

std::string unknown_key(const std::string& section, const std::string& title, const std::string& key) {
  const std::string shown = title.empty() ? key : title + "." + key;
  const std::string begin = fmt::format("unknown key '{}'", shown);
  std::vector<std::string> own;
  std::vector<std::string> everywhere;
  const std::vector<FullName>& names = full_names();
  for (const FullName& name : names) {
    if (name.key == key) return fmt::format("{}; did you mean '{}'?", begin, name.text);
    if (name.section == section) own.push_back(name.key);
    everywhere.push_back(name.key);
  }
  if (const std::string nearest = nearest_of(key, own); !nearest.empty())
    return fmt::format("{}; did you mean '{}.{}'?", begin, title, nearest);
  const std::string nearest = nearest_of(key, everywhere);
  for (const FullName& name : names)
    if (name.key == nearest) return fmt::format("{}; did you mean '{}'?", begin, name.text);
  if (!own.empty()) return fmt::format("{}; the keys of '{}' are {}", begin, section, fmt::join(own, ", "));
  return fmt::format("{}; every key belongs to a table: {}", begin, fmt::join(section_names(), ", "));
}

std::string unknown_table(const std::string& name) {
  const std::string hint = did_you_mean(name, section_names());
  if (!hint.empty()) return fmt::format("unknown table '{}'{}", name, hint);
  return fmt::format("unknown table '{}'; the tables are {}", name, fmt::join(section_names(), ", "));
}

}  // namespace fedspallm::config
