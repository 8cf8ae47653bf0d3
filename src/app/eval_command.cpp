// SPDX-License-Identifier: Apache-2.0
// eval: perplexity of a model directory or of a stand-alone client, in the format of rulings.md 12.
#include "fedspallm/store/run_store.hpp"

#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "evaluate.hpp"
#include "overlay.hpp"
#include "setup.hpp"
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
  nlohmann::json object = {{"format_version", 1},
                           {"model", options.model},
                           {"dtype", "float32"},
                           {"sequence_length", options.sequence_length},
                           {"evaluations", list}};
  if (options.client) object["client"] = *options.client;
  return object;
}

}  // namespace

ExitStatus run_eval(comm::Communicator& communicator, const EvalOptions& options) {
  std::unique_ptr<model::ModelDirectory> model;
  std::unique_ptr<backend::Backend> backend;
  std::shared_ptr<store::BlockStore> store;
  std::vector<EvaluationSet> sets;
  const int threads = threads_of_rank(communicator, 0);
  communicator.together([&] {
    if (options.client) {
      store =
          std::make_shared<store::BlockStore>(store::BlockStore::of_client({options.model}, *options.client));
      check<DataError>(
          store->complete(),
          fmt::format("{}: no finished run with a client '{}' (run.keep_clients = true keeps clients)",
                      options.model, *options.client));
    }
    model = std::make_unique<model::ModelDirectory>(store ? model_of_run(*store)
                                                          : std::filesystem::path(options.model));
    backend = make_backend(backend_kind(options.backend), threads, communicator.node_rank());
    for (const std::string& tokens : options.tokens)
      sets.push_back(read_evaluation(std::filesystem::path(tokens).stem().string(), tokens, options.samples,
                                     options.sequence_length, model->architecture()));
  });
  report::BlockSource source = report::dense_source(*model, *backend);
  if (store) {
    source = [&, store](std::int64_t block) {
      model::BlockWeights weights = model::load_block(*model, block, *backend);
      if (const auto record = store->newest(static_cast<std::uint32_t>(block)))
        apply_record(*backend, *record, weights);
      return weights;
    };
  }
  const auto results =
      evaluate(communicator, *model, *backend, source, sets, /*participates=*/true, options.model);
  if (communicator.rank() != 0) return ExitStatus::done;
  if (options.json) {
    std::puts(to_json(options, sets, results).dump().c_str());
  } else {
    for (std::size_t set = 0; set < results.size(); ++set)
      std::printf("%-24s perplexity %10.4f   nll %.6f   %lld windows of %lld tokens\n",
                  sets[set].name.c_str(), results[set].perplexity, results[set].nll,
                  static_cast<long long>(results[set].samples),
                  static_cast<long long>(options.sequence_length));
  }
  return ExitStatus::done;
}

}  // namespace fedspallm::app
