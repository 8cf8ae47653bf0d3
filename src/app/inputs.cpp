// SPDX-License-Identifier: Apache-2.0
#include "inputs.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"

#include <nlohmann/json.hpp>

#include "plan.hpp"
#include <cstring>
#include <functional>
#include <set>

namespace fedspallm::app {

namespace {

/// Refuses windows that the model cannot take, naming the config's key.
void check_length(const std::string& key, std::int64_t length, const model::Architecture& architecture) {
  check<ConfigError>(architecture.max_positions <= 0 || length <= architecture.max_positions,
                     fmt::format("{}: found {}, expected at most {} (max_position_embeddings of the model)",
                                 key, length, architecture.max_positions));
}

void compare_tokenizer(const data::TokenFile& file, const std::string& tokenizer,
                       std::vector<std::string>& warnings) {
  if (file.tokenizer_sha256.empty() || tokenizer.empty() || file.tokenizer_sha256 == tokenizer) return;
  warnings.push_back(
      fmt::format("{}: its tokenizer_sha256 {:.12}... is not that of the model's tokenizer.json {:.12}...; "
                  "were the tokens made for "
                  "another model?",
                  file.path.string(), file.tokenizer_sha256, tokenizer));
}

/// What is wrong with what `open` reads; "" = nothing.
std::string problem_of(const std::function<void()>& open) {
  try {
    open();
  } catch (const Error& error) {
    if (error.status() != ExitStatus::bad_input) throw;
    return error.what();
  }
  return "";
}

LocalClient read_client(const config::Config& config, std::size_t index, const model::ModelDirectory& model,
                        const std::string& tokenizer, std::vector<std::string>& warnings) {
  const config::Client& client = config.clients[index];
  std::vector<data::TokenFile> files;
  LocalClient result{
      .index = static_cast<std::uint32_t>(index), .name = client.name, .windows = {}, .token_sha256 = {}};
  std::string problems;  // of all its files
  for (const auto& path : client.tokens) {
    const std::string problem = problem_of([&] {
      files.push_back(data::read_token_file(path, model.architecture().vocab_size));
      compare_tokenizer(files.back(), tokenizer, warnings);
      const std::string digest = sha256_of_file(path);
      result.token_sha256 += (result.token_sha256.empty() ? "" : "+") + digest;
    });
    problems += (problems.empty() || problem.empty() ? "" : "\n") + problem;
  }
  check<DataError>(problems.empty(), problems);
  const data::TokenFile all = data::concatenate(std::move(files));
  const std::int64_t samples = client.samples.value_or(config.calibration.samples);
  const std::int64_t length = config.calibration.sequence_length;
  result.windows = config.calibration.sampling == config::Sampling::sequential
                       ? data::sequential_windows(all, samples, length)
                       : data::random_windows(all, samples, length, config.run.seed, result.index);
  return result;
}

void warn_of_shared_text(const config::Config& config, std::vector<std::string>& warnings) {
  std::set<std::string> calibration;
  for (const auto& client : config.clients)
    for (const auto& path : client.tokens) calibration.insert(path.lexically_normal().string());
  for (const auto& evaluation : config.evaluations)
    if (calibration.contains(evaluation.tokens.lexically_normal().string()))
      warnings.push_back(fmt::format(
          "evaluation '{}': {} is also a client's calibration file; its perplexity will look better "
          "than it is",
          evaluation.name, evaluation.tokens.string()));
}

}  // namespace

config::Config load_config(comm::Communicator& communicator, const std::string& file,
                           const std::vector<std::string>& settings) {
  std::string text;
  communicator.together([&] {
    if (communicator.rank() == 0) text = config::to_toml(config::load(file, settings));
  });
  text = communicator.broadcast(std::move(text));
  return config::parse(text, std::filesystem::absolute(file));
}

EvaluationSet read_evaluation(const std::string& name, const std::filesystem::path& tokens,
                              std::optional<std::int64_t> samples, std::int64_t length,
                              const model::Architecture& architecture) {
  check_length(fmt::format("evaluation '{}': sequence_length", name), length, architecture);
  check<ConfigError>(
      length >= 2,
      fmt::format("evaluation '{}': sequence_length: found {}, expected at least 2", name, length));
  const data::TokenFile file = data::read_token_file(tokens, architecture.vocab_size);
  return {name, tokens.string(), data::sequential_windows(file, samples.value_or(-1), length)};
}

std::vector<EvaluationSet> share(comm::Communicator& communicator, std::vector<EvaluationSet> sets) {
  std::vector<std::byte> bytes;
  if (communicator.rank() == 0) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& set : sets)
      list.push_back({{"name", set.name},
                      {"path", set.tokens_path},
                      {"samples", set.windows.samples},
                      {"length", set.windows.length},
                      {"tokens", set.windows.tokens}});
    const auto packed = nlohmann::json::to_cbor(list);
    bytes.resize(packed.size());
    std::memcpy(bytes.data(), packed.data(), packed.size());
  }
  communicator.broadcast(bytes);
  if (communicator.rank() == 0) return sets;
  std::vector<std::uint8_t> packed(bytes.size());
  std::memcpy(packed.data(), bytes.data(), bytes.size());
  std::vector<EvaluationSet> result;
  const auto list = nlohmann::json::from_cbor(packed);
  for (const auto& item : list) {
    EvaluationSet set{item["name"], item["path"], {item["samples"], item["length"], {}}};
    set.windows.tokens = item["tokens"].get<std::vector<std::int32_t>>();
    result.push_back(std::move(set));
  }
  return result;
}

namespace {

/// Warnings and digests to the root.
void gather_facts(comm::Communicator& communicator, const config::Config& config,
                  const std::vector<std::string>& warnings, Inputs& inputs) {
  nlohmann::json mine = {{"warnings", warnings}, {"digests", nlohmann::json::object()}};
  for (const auto& client : inputs.clients)
    mine["digests"][std::to_string(client.index)] = client.token_sha256;
  inputs.token_sha256.resize(config.clients.size());
  for (const std::string& text : communicator.gather(mine.dump())) {
    const auto theirs = nlohmann::json::parse(text);
    for (const auto& warning : theirs["warnings"]) inputs.warnings.push_back(warning);
    for (const auto& [client, digest] : theirs["digests"].items())
      inputs.token_sha256.at(std::stoul(client)) = digest;
  }
}

}  // namespace

Inputs open_inputs(comm::Communicator& communicator, const config::Config& config) {
  Inputs inputs;
  communicator.together([&] {
    inputs.model = std::make_unique<model::ModelDirectory>(config.model.path);  // says which tokens there are
  });
  std::vector<std::string> warnings;
  communicator.together([&] {
    // Every client and evaluation set of this rank is tried, so that one message tells of all that is wrong.
    std::string problems;
    const auto note = [&](const std::string& problem) {
      problems += (problems.empty() || problem.empty() ? "" : "\n") + problem;
    };
    const std::string of_ranks =
        problem_of([&] { inputs.rank_of_client = ranks_of_clients(config, communicator.size()); });
    if (communicator.rank() == 0) {  // the same on all
      note(of_ranks);
      note(problem_of([&] {
        check_length("calibration.sequence_length", config.calibration.sequence_length,
                     inputs.model->architecture());
      }));
    }
    const std::string tokenizer = inputs.model->tokenizer_digest();
    for (std::size_t client = 0; client < inputs.rank_of_client.size(); ++client) {
      if (inputs.rank_of_client[client] != communicator.rank()) continue;
      const std::string problem = problem_of(
          [&] { inputs.clients.push_back(read_client(config, client, *inputs.model, tokenizer, warnings)); });
      // Bad tokens are the client's own failure: the others may go on without it.
      const bool drops = config.federation.on_client_failure == config::OnClientFailure::drop;
      if (drops && !problem.empty())
        inputs.dropped.push_back({static_cast<std::uint32_t>(client), {1, 0}, problem});
      else
        note(problem);
    }
    if (communicator.rank() == 0) {
      for (std::string& remark : config::remarks(config)) warnings.push_back(std::move(remark));
      warn_of_shared_text(config, warnings);
      for (const auto& set : config.evaluations)
        note(problem_of([&] {
          inputs.evaluations.push_back(read_evaluation(set.name, set.tokens, set.samples, set.sequence_length,
                                                       inputs.model->architecture()));
        }));
    }
    check<DataError>(problems.empty(), problems);
  });
  inputs.evaluations = share(communicator, std::move(inputs.evaluations));

  gather_facts(communicator, config, warnings, inputs);
  return inputs;
}

}  // namespace fedspallm::app
