// SPDX-License-Identifier: Apache-2.0
// Purpose: the rows that `bench` prints, one function for each module's benchmarks. A row is {name, shape,
// unit, work, seconds, rate, limit, limit_rate, share, ...}: `work` counts `unit`s, rates are a second's,
// share = rate / limit_rate. Non-goals: measuring (the modules' bench.hpp), printing (bench_command.cpp).
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <nlohmann/json.hpp>

#include "../commands.hpp"
#include <string>

namespace fedspallm::app {

struct BenchReport {
  nlohmann::json rows = nlohmann::json::array();
  nlohmann::json facts = nlohmann::json::object();  // further fields of the JSON object
  std::string remarks;                              // printed below the table, whole lines
};

/// What every row has. @param limit_seconds  the least that the limit allows for this work
[[nodiscard]] nlohmann::json bench_row(const std::string& name, const std::string& shape, const char* unit,
                                       double work, double seconds, const std::string& limit,
                                       double limit_seconds);

/// forward, hessian, factorization, sweep, sparsegpt.
[[nodiscard]] BenchReport backend_bench(backend::Backend& backend, const BenchOptions& options, int threads);
[[nodiscard]] BenchReport aggregate_bench(const BenchOptions& options, int threads);
[[nodiscard]] BenchReport checkpoint_bench(backend::Backend& backend, const BenchOptions& options,
                                           int threads);
/// Collective; the root's counts.
[[nodiscard]] BenchReport transport_bench(comm::Communicator& communicator, const BenchOptions& options);

}  // namespace fedspallm::app
