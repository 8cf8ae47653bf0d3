// SPDX-License-Identifier: Apache-2.0
#include "document.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/ranges.h>

#include "suggest.hpp"
#include "values.hpp"
#include <optional>

namespace fedspallm::config {

namespace {

constexpr std::size_t kLongestTitle = 64;  // longer or odd names are not repeated in every message

std::string title_of(const std::string& section, std::size_t index, const toml::table& table) {
  const auto* name = table.get_as<std::string>("name");
  const bool usable = name != nullptr && !name->get().empty() && name->get().size() <= kLongestTitle &&
                      toml_string(name->get()).size() == name->get().size() + 2;  // nothing had to be escaped
  return usable ? section + "." + name->get() : fmt::format("{}[{}]", section, index + 1);
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// TOML of one key "value", or what is wrong with it.
std::optional<toml::table> one_value(const std::string& text, std::string& problem) {
  try {
    toml::table table = toml::parse(std::string_view("value = " + text), std::string_view());
    if (table.size() == 1) return table;
    problem = "expected one value";  // the text smuggled in further lines
  } catch (const toml::parse_error& error) {
    problem = std::string(error.description());
  }
  return std::nullopt;
}

/// The value of a setting; a text that is no TOML value is a string.
std::optional<toml::table> value_of_setting(const std::string& word, std::string& problem) {
  if (auto table = one_value(word, problem)) return table;
  // A broken string, list or table was not meant as a bare word.
  if (!word.empty() && std::string("\"'[{").find(word.front()) != std::string::npos) return std::nullopt;
  return one_value(toml_string(word), problem);  // fails where the word is not UTF-8
}

}  // namespace

const Assignment* Section::find(const std::string& key) const {
  const auto place = values.find(key);
  return place == values.end() ? nullptr : &place->second;
}

const Origin& Section::origin_of(const std::string& key) const {
  const Assignment* assignment = find(key);
  return assignment == nullptr ? origin : assignment->origin;
}

bool Section::refused(const std::string& key) const {
  const Assignment* assignment = find(key);
  return assignment != nullptr && assignment->refused;
}

std::vector<std::string> section_names() {
  return {"model", "run", "prune", "calibration", "federation", "report", "simulate", "client", "evaluation"};
}

bool is_list(const std::string& section) {
  return section == "client" || section == "evaluation";
}

Document::Document(const std::string& text, const std::string& file, const std::vector<std::string>& settings,
                   Problems& problems)
    : file_(file) {
  try {
    root_ = toml::parse(std::string_view(text), std::string_view(file));
  } catch (const toml::parse_error& error) {
    throw ConfigError(fmt::format("{}:{}:{}: {}", file, error.source().begin.line,
                                  error.source().begin.column, error.description()));
  }
  for (const std::string& name : section_names()) {
    if (is_list(name))
      lists_[name];
    else
      singles_[name] = {
          .name = name, .title = name, .label = {}, .origin = {file_, 0}, .listed = false, .values = {}};
  }
  read_tables(problems);
  for (const std::string& setting : settings) apply(setting, problems);
}

Origin Document::origin_at(const toml::source_region& source) const {
  const auto line = static_cast<std::int64_t>(source.begin.line);
  return line == 0 ? Origin{file_, 0} : Origin{fmt::format("{}:{}", file_, line), line};
}

void Document::fill(Section& section, const toml::table& table) {
  for (const auto& [key, node] : table)
    section.values[std::string(key.str())] = {
        .node = &node, .origin = origin_at(key.source()), .word = {}, .refused = false};
}

void Document::read_tables(Problems& problems) {
  for (const auto& [key, node] : root_) {
    const std::string name(key.str());
    const Origin origin = origin_at(key.source());
    if (lists_.contains(name)) {
      read_list(name, key, node, problems);
    } else if (!singles_.contains(name)) {
      problems.add(origin, node.is_table() || node.is_array_of_tables() ? unknown_table(name)
                                                                        : unknown_key("", "", name));
    } else if (const auto* table = node.as_table()) {
      Section& section = singles_[name];
      section.origin = origin;
      fill(section, *table);
    } else {
      problems.add(origin,
                   fmt::format("{}: found {}, expected one table [{}]", name,
                               node.is_array_of_tables() ? "a list of tables" : describe(node), name));
    }
  }
}

void Document::read_list(const std::string& name, const toml::key& key, const toml::node& node,
                         Problems& problems) {
  const auto* list = node.as_array();
  if (list == nullptr) {
    problems.add(origin_at(key.source()),
                 fmt::format("{}: found {}, expected entries [[{}]] (double brackets)", name,
                             node.is_table() ? "one table" : describe(node), name));
    return;
  }
  for (const toml::node& item : *list) {
    const Origin origin = origin_at(item.source());
    const auto* table = item.as_table();
    if (table == nullptr) {
      problems.add(origin, fmt::format("{}: found {}, expected entries [[{}]]", name, describe(item), name));
      continue;
    }
    auto& sections = lists_[name];
    Section& section = sections.emplace_back();
    section.name = name;
    section.title = title_of(name, sections.size() - 1, *table);
    if (const auto* label = table->get_as<std::string>("name")) section.label = label->get();
    section.origin = origin;
    section.listed = true;
    fill(section, *table);
  }
}

void Document::apply(const std::string& setting, Problems& problems) {
  const Origin origin{"--set " + setting, Origin::kSettings};
  const auto equals = setting.find('=');
  const std::string path = trimmed(setting.substr(0, equals));
  if (equals == std::string::npos || path.empty()) {
    problems.add(origin, "expected key=value, as in prune.sparsity=0.6");
    return;
  }
  const auto dot = path.rfind('.');
  if (dot == std::string::npos) {
    problems.add(origin, unknown_key("", "", path));
    return;
  }
  Section* section = section_of(path.substr(0, dot), origin, problems);
  if (section == nullptr) return;
  const std::string word = trimmed(setting.substr(equals + 1));
  std::string problem;
  auto value = value_of_setting(word, problem);
  if (!value) {
    problems.add(origin, problem);
    return;
  }
  setting_values_.push_back(std::move(*value));
  section->values[path.substr(dot + 1)] = {
      .node = setting_values_.back().get("value"), .origin = origin, .word = word, .refused = false};
}

Section* Document::section_of(const std::string& path, const Origin& origin, Problems& problems) {
  if (const auto place = singles_.find(path); place != singles_.end()) return &place->second;
  const std::string list = path.substr(0, path.find('.'));
  if (!lists_.contains(list)) {
    problems.add(origin, unknown_table(list));
    return nullptr;
  }
  const std::string wanted = path.size() > list.size() ? path.substr(list.size() + 1) : "";
  std::vector<std::string> names;
  for (Section& section : lists_.at(list)) {
    if (section.label.empty()) continue;
    if (section.label == wanted) return &section;
    names.push_back(section.label);
  }
  if (wanted.empty()) {
    problems.add(origin,
                 fmt::format("expected {}.NAME.KEY=value, NAME one of: {}", list, fmt::join(names, ", ")));
  } else {
    const std::string hint = did_you_mean(wanted, names);
    problems.add(origin,
                 fmt::format("no {} is named '{}'{}", list, wanted,
                             hint.empty() ? fmt::format("; there are: {}", fmt::join(names, ", ")) : hint));
  }
  return nullptr;
}

}  // namespace fedspallm::config
