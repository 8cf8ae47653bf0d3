// SPDX-License-Identifier: Apache-2.0
// Purpose: the one table of keys: for each section its keys with their types, ranges and destinations.
// Reading, printing and the list of known names all come from it; defaults are the initializers of the
// structs in config.hpp. Non-goal: rules between keys (checks.hpp).
#pragma once

#include "fedspallm/config/config.hpp"

#include "values.hpp"
#include <functional>
#include <string>
#include <vector>

namespace fedspallm::config {

template <class T>
struct Key {
  std::string name;
  std::function<Mismatch(const Value&, T&)> read;
  std::function<std::string(const T&)> print;  // TOML of the value, "" where it is not set
  std::string missing;                         // what the key is for, where it must be given; "" = optional
};

[[nodiscard]] std::vector<Key<Model>> model_keys();
[[nodiscard]] std::vector<Key<Run>> run_keys();
[[nodiscard]] std::vector<Key<Prune>> prune_keys();
[[nodiscard]] std::vector<Key<Calibration>> calibration_keys();
[[nodiscard]] std::vector<Key<Federation>> federation_keys();
[[nodiscard]] std::vector<Key<Report>> report_keys();
[[nodiscard]] std::vector<Key<Client>> client_keys();
[[nodiscard]] std::vector<Key<Evaluation>> evaluation_keys();
[[nodiscard]] std::vector<Key<Simulate>> simulate_keys();

}  // namespace fedspallm::config
