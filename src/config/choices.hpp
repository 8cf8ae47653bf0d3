// SPDX-License-Identifier: Apache-2.0
// Purpose: how enumerators are spelled in a configuration: the place in each list is the enumerator's value.
// Non-goal: reading and printing keys (keys.hpp).
#pragma once

#include "fedspallm/config/config.hpp"

#include <array>
#include <string_view>

namespace fedspallm::config {

constexpr std::array<std::string_view, 4> spellings(BackendKind) {
  return {"auto", "cpu", "cuda", "reference"};
}
constexpr std::array<std::string_view, 4> spellings(Method) {
  return {"sparsegpt", "wanda", "magnitude", "random"};
}
constexpr std::array<std::string_view, 2> spellings(Order) {
  return {"staged", "block"};
}
constexpr std::array<std::string_view, 2> spellings(Count) {
  return {"exact", "published"};
}
constexpr std::array<std::string_view, 2> spellings(Sampling) {
  return {"random", "sequential"};
}
constexpr std::array<std::string_view, 3> spellings(Aggregation) {
  return {"l0", "mean", "none"};
}
constexpr std::array<std::string_view, 3> spellings(Tie) {
  return {"score", "magnitude", "index"};
}
constexpr std::array<std::string_view, 4> spellings(TransportKind) {
  return {"auto", "reduce", "gather", "nccl"};
}
constexpr std::array<std::string_view, 4> spellings(TopologyKind) {
  return {"auto", "root", "owners", "nodes"};
}
constexpr std::array<std::string_view, 2> spellings(LayerSampling) {
  return {"none", "resources"};
}
constexpr std::array<std::string_view, 2> spellings(Coverage) {
  return {"required", "warn"};
}
constexpr std::array<std::string_view, 2> spellings(OnClientFailure) {
  return {"abort", "drop"};
}
constexpr std::array<std::string_view, 3> spellings(Products) {
  return {"f32", "f16", "bf16"};
}
constexpr std::array<std::string_view, 2> spellings(ModelDType) {
  return {"stored", "float32"};
}
constexpr std::array<std::string_view, 4> spellings(ModelShape) {
  return {"model.path", "smollm2-135m", "llama-2-7b", "llama-2-70b"};
}
constexpr std::array<std::string_view, 2> spellings(Placement) {
  return {"all", "workers"};
}

}  // namespace fedspallm::config
