// SPDX-License-Identifier: Apache-2.0
// eval: perplexity of a model directory or of a stand-alone client, in the format of rulings.md 12.
#include "fedspallm/base/error.hpp"
#include "fedspallm/store/run_store.hpp"

#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "evaluate.hpp"
#include "overlay.hpp"
#include "setup.hpp"
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>

namespace fedspallm::app {

namespace {

/// The dense model that a run recorded.
std::filesystem::path model_of_run(const store::BlockStore& store) {
  const config::Config config = config::parse(store.read_provenance().config_toml, "run.h5");
  return config.model.path;
}

nlohmann::json to_json(const EvalOptions& options, const std::vector<EvaluationSet>& sets,
                       const std::vector<report::Perplexity>& results) {
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t set = 0; set < results.size(); ++set)
    list.push_back({{"name", sets[set].name},
                    {"tokens", options.tokens[set]},
                    {"samples", results[set].samples},
                    {"predictions", results[set].predictions},
                    {"nll", results[set].nll},
                    {"perplexity", results[set].perplexity}});
  return list;
}

void print(const char* prefix, const EvalOptions& options, const std::vector<EvaluationSet>& sets,
           const std::vector<report::Perplexity>& results) {
  for (std::size_t set = 0; set < results.size(); ++set)
    std::printf("%s%-24s perplexity %10.4f   nll %.6f   %lld windows of %lld tokens\n", prefix,
                sets[set].name.c_str(), results[set].perplexity, results[set].nll,
                static_cast<long long>(results[set].samples),
                static_cast<long long>(options.sequence_length));
}

/// One way through the model, with the wall time that it took.
struct Timed {
  std::vector<report::Perplexity> results;
  double seconds = 0;
};

/// Linears with fewer zeros stay dense: nobody pruned them.
constexpr double kLeastSparsity = 0.25;

/// The same blocks, pruned linears by their non-zeros; counts them.
report::BlockSource sparse_source(report::BlockSource source, backend::Backend& backend,
                                  std::size_t& linears) {
  return [source = std::move(source), &backend, &linears](std::int64_t block) {
    model::BlockWeights weights = source(block);
    linears += model::make_sparse(backend, kLeastSparsity, weights);
    return weights;
  };
}

void print_sparse(const EvalOptions& options, const std::vector<EvaluationSet>& sets, const Timed& dense,
                  const Timed& sparse, std::size_t linears) {
  print("sparse ", options, sets, sparse.results);
  std::printf(
      "%.3f s dense, %.3f s with %zu linears by their non-zeros (loading, and on the first pass the "
      "conversion, included)\n",
      dense.seconds, sparse.seconds, linears);
}

/// A run directory in a model's place is an easy mistake.
void refuse_run_folder(const std::filesystem::path& folder) {
  std::error_code error;
  const std::filesystem::path model = store::RunPaths{folder}.model();
  check<ConfigError>(
      std::filesystem::exists(folder / "config.json", error) ||
          !std::filesystem::exists(model / "config.json", error),
      fmt::format("{}: found a run directory, expected a model directory; name {}, or a client "
                  "with --client",
                  folder.string(), model.string()));
}

}  // namespace

ExitStatus run_eval(comm::Communicator& communicator, const EvalOptions& options) {
  std::unique_ptr<model::ModelDirectory> model;
  std::unique_ptr<backend::Backend> backend;
  std::shared_ptr<store::BlockStore> store;
  std::vector<EvaluationSet> sets;
  std::vector<std::string> warnings;
  const int threads = threads_of_rank(communicator, 0);
  communicator.together([&] {
    if (options.client) {
      store =
          std::make_shared<store::BlockStore>(store::BlockStore::of_client({options.model}, *options.client));
      check<DataError>(
          store->complete(),
          fmt::format("{}: no finished run with a client '{}' (run.keep_clients = true keeps clients)",
                      options.model, *options.client));
      store::check_client_is_of_run({options.model}, *store);
    } else {
      refuse_run_folder(options.model);
    }
    model = std::make_unique<model::ModelDirectory>(store ? model_of_run(*store)
                                                          : std::filesystem::path(options.model));
    backend = make_backend(backend_kind(options.backend), threads, communicator.node_rank());
    for (const std::string& tokens : options.tokens)
      sets.push_back(read_evaluation(std::filesystem::path(tokens).stem().string(), tokens, options.samples,
                                     options.sequence_length, model->architecture(), warnings));
  });
  if (communicator.rank() == 0)
    for (const std::string& warning : warnings)
      std::fprintf(stderr, "fedspallm: warning: %s\n", warning.c_str());
  report::BlockSource source = report::dense_source(*model, *backend);
  if (store) {
    source = [&, store](std::int64_t block) {
      model::BlockWeights weights = model::load_block(*model, block, *backend);
      if (const auto record = store->newest(static_cast<std::uint32_t>(block)))
        apply_record(*backend, *record, weights);
      return weights;
    };
  }
  const auto timed = [&](const report::BlockSource& blocks, const char* what) {
    const auto begin = std::chrono::steady_clock::now();
    Timed run{evaluate(communicator, *model, *backend, blocks, sets, /*participates=*/true, what)};
    run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return run;
  };
  const Timed dense = timed(source, options.model.c_str());
  Timed sparse;
  std::size_t linears = 0;
  if (options.sparse) {
    sparse = timed(sparse_source(source, *backend, linears), options.model.c_str());
    check<ConfigError>(communicator.maximum(static_cast<std::int64_t>(linears)) > 0,
                       fmt::format("--sparse: no linear of {} has {:.0f} % zeros or more: it is not pruned",
                                   options.model, 100 * kLeastSparsity));
  }
  if (communicator.rank() != 0) return ExitStatus::done;
  if (options.json) {
    nlohmann::json object = {{"format_version", 1},
                             {"model", options.model},
                             {"dtype", "float32"},
                             {"sequence_length", options.sequence_length},
                             {"evaluations", to_json(options, sets, dense.results)}};
    if (options.client) object["client"] = *options.client;
    if (options.sparse)
      object["sparse"] = {{"evaluations", to_json(options, sets, sparse.results)},
                          {"linears", linears},
                          {"seconds", sparse.seconds},
                          {"dense_seconds", dense.seconds}};
    std::puts(object.dump().c_str());
  } else {
    print("", options, sets, dense.results);
    if (options.sparse) print_sparse(options, sets, dense, sparse, linears);
  }
  return ExitStatus::done;
}

}  // namespace fedspallm::app
