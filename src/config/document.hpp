// SPDX-License-Identifier: Apache-2.0
// Purpose: a configuration file and its --set settings as flat sections of (key, value, origin), before any
// value is read. Knows the names of the tables and which of them repeat; does not know their keys. Non-goals:
// types and ranges of values (values.hpp), the list of keys (keys.hpp).
#pragma once

#include <toml++/toml.h>

#include "problems.hpp"
#include <deque>
#include <map>
#include <string>
#include <vector>

namespace fedspallm::config {

struct Assignment {
  const toml::node* node = nullptr;  // owned by the Document
  Origin origin;
  std::string word;      // a setting's text, which serves where a string is expected
  bool refused = false;  // its value was reported as a problem: leave it out of checks between keys
};

/// One table of the file: [prune], or one [[client]] entry.
struct Section {
  std::string name;   // "prune", "client", "evaluation"
  std::string title;  // what keys are called in messages: "prune", "client.novels", "client[1]"
  std::string label;  // of a listed one: its name in the file, by which settings address it
  Origin origin;
  bool listed = false;  // one of several, as [[client]]
  std::map<std::string, Assignment> values;

  [[nodiscard]] const Assignment* find(const std::string& key) const;
  /// Origin of the key where it is set, else of the section.
  [[nodiscard]] const Origin& origin_of(const std::string& key) const;
  [[nodiscard]] bool refused(const std::string& key) const;
};

/// The tables of a configuration file.
[[nodiscard]] std::vector<std::string> section_names();
[[nodiscard]] bool is_list(const std::string& section);

class Document {
 public:
  /// @throws ConfigError for TOML that cannot be parsed; everything else goes to `problems`
  Document(const std::string& text, const std::string& file, const std::vector<std::string>& settings,
           Problems& problems);
  Document(const Document&) = delete;
  Document& operator=(const Document&) = delete;

  /// Whether the file has a key or table of this name, well-formed or not.
  [[nodiscard]] bool mentions(const std::string& name) const { return root_.contains(name); }
  /// [name]; empty when the file lacks it.
  [[nodiscard]] Section& single(const std::string& name) { return singles_.at(name); }
  /// The [[name]] entries in the order of the file.
  [[nodiscard]] std::vector<Section>& list(const std::string& name) { return lists_.at(name); }

 private:
  [[nodiscard]] Origin origin_at(const toml::source_region& source) const;
  void read_tables(Problems& problems);
  void read_list(const std::string& name, const toml::key& key, const toml::node& node, Problems& problems);
  void fill(Section& section, const toml::table& table);
  void apply(const std::string& setting, Problems& problems);
  [[nodiscard]] Section* section_of(const std::string& path, const Origin& origin, Problems& problems);

  std::string file_;
  toml::table root_;
  std::deque<toml::table> setting_values_;  // keep the nodes of settings alive
  std::map<std::string, Section> singles_;
  std::map<std::string, std::vector<Section>> lists_;
};

}  // namespace fedspallm::config
