// SPDX-License-Identifier: Apache-2.0
#include "inputs.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/report/system.hpp"

#include <nlohmann/json.hpp>

#include "plan.hpp"
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <sstream>

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

void compare_vocabulary(const data::TokenFile& file, std::int64_t vocab_size,
                        std::vector<std::string>& warnings) {
  if (file.vocab_size == 0 || file.vocab_size == vocab_size) return;
  warnings.push_back(
      fmt::format("{}: its attribute vocab_size is {}, the model's vocab_size {}; were the tokens made for "
                  "another model?",
                  file.path.string(), file.vocab_size, vocab_size));
}

/// Before anything is allocated, so that the key and not the machine is named.
void check_windows_fit(const config::Config& config, const config::Client& client, std::int64_t samples) {
  const std::int64_t each =
      config.calibration.sequence_length * static_cast<std::int64_t>(sizeof(std::int32_t));
  const std::int64_t available = report::available_memory_bytes();
  check<ResourceError>(
      samples <= available / each,
      fmt::format(
          "client '{}': {}: found {}, expected at most {}: the windows of {} tokens alone must fit the "
          "{} MB of memory that are available; use fewer samples",
          client.name, client.samples ? fmt::format("client.{}.samples", client.name) : "calibration.samples",
          samples, available / each, config.calibration.sequence_length, available / 1000000));
}

void warn_of_one_window(const config::Config& config, const LocalClient& client, std::size_t tokens,
                        std::vector<std::string>& warnings) {
  const std::int64_t length = config.calibration.sequence_length;
  if (config.calibration.sampling != config::Sampling::random || client.windows.samples < 2 ||
      tokens != static_cast<std::size_t>(length))
    return;
  warnings.push_back(fmt::format(
      "client '{}': its text has {} tokens, exactly one window, so that its {} samples are all the "
      "same; use more text, a shorter calibration.sequence_length, or samples = 1",
      client.name, tokens, client.windows.samples));
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

void add_problem(std::string& problems, const std::string& problem) {
  problems += (problems.empty() || problem.empty() ? "" : "\n") + problem;
}

LocalClient read_client(const config::Config& config, std::size_t index, const model::ModelDirectory& model,
                        const std::string& tokenizer, std::vector<std::string>& warnings) {
  const config::Client& client = config.clients[index];
  const std::int64_t samples = client.samples.value_or(config.calibration.samples);
  check_windows_fit(config, client, samples);
  std::vector<data::TokenFile> files;
  LocalClient result{
      .index = static_cast<std::uint32_t>(index), .name = client.name, .windows = {}, .token_sha256 = {}};
  std::string problems;  // of all its files
  for (const auto& path : client.tokens) {
    add_problem(problems, problem_of([&] {
                  files.push_back(data::read_token_file(path, model.architecture().vocab_size));
                  compare_tokenizer(files.back(), tokenizer, warnings);
                  compare_vocabulary(files.back(), model.architecture().vocab_size, warnings);
                  const std::string digest = sha256_of_file(path);
                  result.token_sha256 += (result.token_sha256.empty() ? "" : "+") + digest;
                }));
  }
  check<DataError>(problems.empty(), problems);
  const data::TokenFile all = data::concatenate(std::move(files));
  const std::int64_t length = config.calibration.sequence_length;
  result.windows = config.calibration.sampling == config::Sampling::sequential
                       ? data::sequential_windows(all, samples, length)
                       : data::random_windows(all, samples, length, config.run.seed, result.index);
  warn_of_one_window(config, result, all.tokens.size(), warnings);
  return result;
}

/// A client's calibration file, at the root.
struct CalibrationFile {
  std::string client;
  std::filesystem::path path;
};

/// Of all clients that were read, by SHA-256: the first file with that content. Clients with the same content
/// under other names are told of here (the same name is in config::remarks).
std::map<std::string, CalibrationFile> calibration_files(const config::Config& config,
                                                         const std::vector<std::string>& token_sha256,
                                                         std::vector<std::string>& warnings) {
  std::map<std::string, CalibrationFile> files;
  for (std::size_t client = 0; client < config.clients.size(); ++client) {
    std::istringstream digests(token_sha256[client]);  // "A+B", "" where the client was not read
    auto path = config.clients[client].tokens.begin();
    for (std::string digest; std::getline(digests, digest, '+'); ++path) {
      const auto [first, is_new] = files.emplace(digest, CalibrationFile{config.clients[client].name, *path});
      if (!is_new && first->second.path.lexically_normal() != path->lexically_normal())
        warnings.push_back(fmt::format("client '{}': {} has the same content as {} of client '{}'",
                                       config.clients[client].name, path->string(),
                                       first->second.path.string(), first->second.client));
    }
  }
  return files;
}

void warn_of_shared_text(const config::Config& config, const std::vector<std::string>& token_sha256,
                         std::vector<std::string>& warnings) {
  const auto files = calibration_files(config, token_sha256, warnings);
  for (const auto& evaluation : config.evaluations) {
    const auto found = files.find(sha256_of_file(evaluation.tokens));
    if (found == files.end()) continue;
    const auto& [client, path] = found->second;
    const bool same = path.lexically_normal() == evaluation.tokens.lexically_normal();
    warnings.push_back(fmt::format(
        "evaluation '{}': {} is also a client's calibration file{}; its perplexity will look better than it "
        "is",
        evaluation.name, evaluation.tokens.string(),
        same ? "" : fmt::format(" (its content is that of {} of client '{}')", path.string(), client)));
  }
}

void warn_of_idle_ranks(const std::vector<int>& rank_of_client, int ranks,
                        std::vector<std::string>& warnings) {
  const std::set<int> busy(rank_of_client.begin(), rank_of_client.end());
  const auto idle = static_cast<std::size_t>(ranks) - busy.size();
  if (idle > 0)
    warnings.push_back(fmt::format(
        "{} of {} ranks have no client and prune nothing (they may help to merge, write and evaluate): use "
        "fewer ranks, with more cores each",
        idle, ranks));
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
                              const model::Architecture& architecture, std::vector<std::string>& warnings) {
  check_length(fmt::format("evaluation '{}': sequence_length", name), length, architecture);
  check<ConfigError>(
      length >= 2,
      fmt::format("evaluation '{}': sequence_length: found {}, expected at least 2", name, length));
  const data::TokenFile file = data::read_token_file(tokens, architecture.vocab_size);
  compare_vocabulary(file, architecture.vocab_size, warnings);
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

/// The first token file of a client that is not on this machine; "" = all are.
std::filesystem::path missing_file(const config::Client& client) {
  std::error_code error;
  for (const auto& path : client.tokens)
    if (!std::filesystem::exists(path, error)) return path;
  return {};
}

}  // namespace

Inputs open_inputs(comm::Communicator& communicator, const config::Config& config, int assumed_ranks) {
  Inputs inputs;
  const int ranks = assumed_ranks > 0 ? assumed_ranks : communicator.size();
  communicator.together([&] {
    inputs.model = std::make_unique<model::ModelDirectory>(config.model.path);  // says which tokens there are
  });
  std::vector<std::string> warnings;
  communicator.together([&] {
    // Every client and evaluation set of this rank is tried, so that one message tells of all that is wrong.
    std::string problems;
    const auto note = [&](const std::string& problem) { add_problem(problems, problem); };
    const std::string of_ranks = problem_of([&] { inputs.rank_of_client = ranks_of_clients(config, ranks); });
    if (communicator.rank() == 0) {  // the same on all
      note(of_ranks);
      note(problem_of([&] {
        check_length("calibration.sequence_length", config.calibration.sequence_length,
                     inputs.model->architecture());
      }));
    }
    const std::string tokenizer = inputs.model->tokenizer_digest();
    for (std::size_t client = 0; client < inputs.rank_of_client.size(); ++client) {
      if (inputs.rank_of_client[client] % communicator.size() != communicator.rank()) continue;
      if (const auto missing = missing_file(config.clients[client]); assumed_ranks > 0 && !missing.empty()) {
        warnings.push_back(
            fmt::format("client '{}': {} is not on this machine, so it was not looked at (rank {} "
                        "will read it)",
                        config.clients[client].name, missing.string(), inputs.rank_of_client[client]));
        continue;
      }
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
      warn_of_idle_ranks(inputs.rank_of_client, ranks, warnings);
      for (const auto& set : config.evaluations)
        note(problem_of([&] {
          inputs.evaluations.push_back(read_evaluation(set.name, set.tokens, set.samples, set.sequence_length,
                                                       inputs.model->architecture(), warnings));
        }));
    }
    check<DataError>(problems.empty(), problems);
  });
  inputs.evaluations = share(communicator, std::move(inputs.evaluations));

  gather_facts(communicator, config, warnings, inputs);
  communicator.together([&] {
    if (communicator.rank() == 0) warn_of_shared_text(config, inputs.token_sha256, inputs.warnings);
  });
  return inputs;
}

}  // namespace fedspallm::app
