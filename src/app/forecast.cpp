// SPDX-License-Identifier: Apache-2.0
#include "forecast.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"
#include "fedspallm/model/decoder.hpp"

#include "merge_way.hpp"
#include <algorithm>

namespace fedspallm::app {

namespace {

constexpr std::int64_t kProcessBytes = std::int64_t{90}
                                       << 20;  // libraries, MPI, BLAS buffers; measured on an empty run
constexpr std::int64_t kEvaluationBudget = std::int64_t{512} << 20;  // as report::window_nll

/// Of each client's hidden states: two that are kept, and the one being written ...
constexpr std::int64_t kStateGenerations = 3;
/// ... and, where blocks are merged, those of blocks that are on their way (ExchangeOptions::window_blocks).
constexpr std::int64_t kStatesOnTheirWay = 2;

struct Sizes {
  std::int64_t block_weights = 0, largest_matrix = 0, packed_block = 0, attended = 0, kv = 0;
};

Sizes sizes_of(const config::Config& config, const model::ModelDirectory& model) {
  const model::Architecture& architecture = model.architecture();
  Sizes sizes;
  sizes.attended = architecture.heads * architecture.head_dim;
  sizes.kv = architecture.kv_heads * architecture.head_dim;
  for (std::size_t matrix = 0; matrix < architecture.matrices.size(); ++matrix) {
    const std::int64_t size = architecture.matrices[matrix].rows * architecture.matrices[matrix].cols;
    sizes.block_weights += size;
    sizes.largest_matrix = std::max(sizes.largest_matrix, size);
    const auto kept = static_cast<std::int64_t>(static_cast<double>(size) * (1 - config.prune.sparsity)) + 1;
    sizes.packed_block +=
        wire::encoded_bytes(architecture.matrices[matrix].rows, architecture.matrices[matrix].cols, kept,
                            wire_dtype(config, model, 0, matrix), false);
  }
  return sizes;
}

std::int64_t hessian_bytes(const config::Config& config, const model::Architecture& architecture,
                           std::int64_t attended) {
  if (!config::needs_hessian(config.prune.method)) return 0;
  const auto square = [](std::int64_t n) { return n * n * 4; };
  const std::int64_t largest = std::max({architecture.hidden_size, attended, architecture.intermediate_size});
  const std::int64_t factor =
      config.prune.method == config::Method::sparsegpt ? 2 * square(largest) : 0;  // U, workspace
  if (config.prune.order == config::Order::staged) return square(largest) + factor;
  return 2 * square(architecture.hidden_size) + square(attended) + square(architecture.intermediate_size) +
         factor;
}

RankForecast forecast_rank(const config::Config& config, const model::ModelDirectory& model,
                           const Sizes& sizes, int rank, const std::vector<int>& rank_of_client,
                           std::int64_t evaluation_tokens) {
  const model::Architecture& architecture = model.architecture();
  const std::int64_t length = config.calibration.sequence_length;
  const std::int64_t batch = model::rows_of_batch(length, backend::kHostRowsPerBatch);
  RankForecast result{.rank = rank};
  std::int64_t most_tokens = 0;
  for (std::size_t client = 0; client < config.clients.size(); ++client) {
    if (rank_of_client[client] != rank) continue;
    const std::int64_t tokens = config.clients[client].samples.value_or(config.calibration.samples) * length;
    ++result.clients;
    most_tokens = std::max(most_tokens, tokens);
    result.hidden_bytes += tokens * architecture.hidden_size * 4;
  }
  if (result.clients > 0) {
    result.weights_bytes = sizes.block_weights * 4 + sizes.largest_matrix * 2;
    const std::int64_t stage = config.prune.order == config::Order::staged ? most_tokens : batch;
    result.activation_bytes = stage * std::max(sizes.attended, architecture.intermediate_size) * 4 +
                              batch *
                                  (2 * architecture.hidden_size + 2 * sizes.attended + 2 * sizes.kv +
                                   2 * architecture.intermediate_size) *
                                  4 +
                              sizes.largest_matrix / architecture.hidden_size * config.prune.block_size * 8;
    result.hessian_bytes = hessian_bytes(config, architecture, sizes.attended);
    result.transfer_bytes = 2 * result.clients * sizes.packed_block;
  }
  if (!config.evaluations.empty()) {
    const std::int64_t ranks = 1 + *std::max_element(rank_of_client.begin(), rank_of_client.end());
    const bool own = config.report.standalone || config.federation.aggregation == config::Aggregation::none;
    const std::int64_t tokens = own ? evaluation_tokens : divide_up(evaluation_tokens, ranks);
    result.evaluation_bytes = std::min(kEvaluationBudget, tokens * architecture.hidden_size * 4) +
                              architecture.vocab_size * architecture.hidden_size * 4 +
                              architecture.vocab_size * 256 * 4 + sizes.block_weights * 4 +
                              batch *
                                  (3 * architecture.hidden_size + 2 * sizes.attended + 2 * sizes.kv +
                                   2 * architecture.intermediate_size) *
                                  4;
  }
  return result;
}

/// Of a rank that writes blocks: votes until the block is written, the merged block and its file image.
std::int64_t writer_bytes(const Sizes& sizes) {
  return sizes.block_weights * 4 + 2 * sizes.packed_block;
}

/// What merging and writing take of a rank.
std::int64_t merge_bytes(const Sizes& sizes, const comm::ExchangeOptions& options, const RankForecast& of,
                         int ranks) {
  const int rank = of.rank;
  std::int64_t bytes = rank == 0 || options.spread_writing ? writer_bytes(sizes) : 0;
  if (options.topology == comm::Topology::owners)  // two merge states, one of them being finished
    bytes += sizes.largest_matrix / ranks * (12 + 12 + 12) +
             comm::ExchangeOptions().window_blocks * options.chunk_bytes;
  else if (options.topology == comm::Topology::nodes)  // two states for all ranks of the node
    bytes += options.leaders[static_cast<std::size_t>(rank)] == rank ? sizes.largest_matrix * (12 + 12) : 0;
  else if (rank == 0 && options.transport != comm::Transport::nccl)  // then the root's GPU has these
    bytes += sizes.largest_matrix * (12 + 12);  // the matrix being merged, and room for arrivals
  else if (of.clients > 0 && options.transport == comm::Transport::reduce)  // two chains at once
    bytes += sizes.largest_matrix * (12 + 12);
  return bytes;
}

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) / 1e6);
}

/// More equal rows than this that follow each other become one.
constexpr std::size_t kEqualRows = 8;

/// All of a rank's row but its number.
std::string row_of(const RankForecast& rank) {
  return fmt::format("{:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}", rank.clients,
                     megabytes(rank.weights_bytes), megabytes(rank.hidden_bytes),
                     megabytes(rank.activation_bytes), megabytes(rank.hessian_bytes),
                     megabytes(rank.transfer_bytes), megabytes(rank.evaluation_bytes),
                     megabytes(rank.peak_bytes()), megabytes(rank.wire_bytes));
}

}  // namespace

std::int64_t RankForecast::peak_bytes() const {
  const std::int64_t pruning =
      weights_bytes + hidden_bytes + activation_bytes + hessian_bytes + transfer_bytes;
  return kProcessBytes + std::max(pruning, evaluation_bytes + hidden_bytes);
}

Forecast forecast(const config::Config& config, const model::ModelDirectory& model, int ranks,
                  std::int64_t evaluation_tokens, const std::vector<int>& leaders) {
  const Sizes sizes = sizes_of(config, model);
  const std::vector<int> rank_of_client = ranks_of_clients(config, ranks);
  Forecast result;
  for (int rank = 0; rank < ranks; ++rank)
    result.ranks.push_back(forecast_rank(config, model, sizes, rank, rank_of_client, evaluation_tokens));
  const auto blocks = model.architecture().blocks;
  std::int64_t client_blocks = 0;
  for (int round = 1; round <= config.federation.rounds; ++round) {
    const RoundPlan plan = plan_round(config, model, rank_of_client, {static_cast<std::uint32_t>(round), 0});
    for (const auto& drawn : plan.drawn) client_blocks += std::count(drawn.begin(), drawn.end(), true);
    if (plan.exchange.units.empty()) continue;
    const MergeWay way = choose_way(config, plan, ranks, /*shared_folder=*/true, leaders);
    result.transport = comm::name_of(way.options.transport);
    result.topology = name_of(way.options.topology);
    if (round == 1) {
      result.reasons = way.reasons;
      for (RankForecast& rank : result.ranks)
        rank.transfer_bytes += merge_bytes(sizes, way.options, rank, ranks);
    }
    for (int rank = 0; rank < ranks; ++rank)
      result.ranks[static_cast<std::size_t>(rank)].wire_bytes +=
          comm::forecast_bytes(plan.exchange, way.options, rank, ranks);
  }
  const bool merges = config.federation.aggregation != config::Aggregation::none;
  if (merges) {
    for (const auto& shard : model.shards()) result.disk.model += shard.file_bytes();
    const std::int64_t votes = config.clients.size() < 256 ? 1 : 2;
    result.disk.run = config.federation.rounds * blocks * (sizes.packed_block + votes * sizes.block_weights);
  }
  if (config.run.keep_clients) result.disk.clients = client_blocks * sizes.packed_block;
  const std::int64_t generations = std::min(kStateGenerations + (merges ? kStatesOnTheirWay : 0), blocks - 1);
  for (const RankForecast& rank : result.ranks) result.disk.states += generations * rank.hidden_bytes;
  return result;
}

std::string to_text(const Forecast& forecast) {
  std::string text = fmt::format("{:>5} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}\n",
                                 "rank", "clients", "weights", "hidden", "activations", "hessian", "transfer",
                                 "evaluation", "peak MB", "wire MB");
  for (std::size_t first = 0, end; first < forecast.ranks.size(); first = end) {
    const std::string row = row_of(forecast.ranks[first]);
    for (end = first + 1; end < forecast.ranks.size() && row_of(forecast.ranks[end]) == row;) ++end;
    const bool joined = end - first > kEqualRows;
    if (!joined) end = first + 1;
    const std::string name = joined ? fmt::format("{}..{}", first, end - 1) : std::to_string(first);
    text += fmt::format("{:>5} {}\n", name, row);
  }
  text += fmt::format(
      "disk MB: model {}, run file {}, clients {}, states {}, together {}; transport {}, topology {}\n",
      megabytes(forecast.disk.model), megabytes(forecast.disk.run), megabytes(forecast.disk.clients),
      megabytes(forecast.disk.states), megabytes(forecast.disk.all()),
      forecast.transport.empty() ? "none" : forecast.transport,
      forecast.topology.empty() ? "none" : forecast.topology);
  for (const std::string& reason : forecast.reasons) text += reason + "\n";
  return text;
}

DiskBytes disk_in_use(const std::filesystem::path& run_dir) {
  namespace fs = std::filesystem;
  const auto bytes_below = [&](const char* name) {
    std::int64_t bytes = 0;
    std::error_code error;
    for (fs::recursive_directory_iterator entry(run_dir / name, error), end; !error && entry != end;
         entry.increment(error)) {
      std::error_code gone;  // no file, or removed meanwhile
      const std::uintmax_t size = entry->is_regular_file(gone) ? entry->file_size(gone) : 0;
      if (!gone) bytes += static_cast<std::int64_t>(size);
    }
    return bytes;
  };
  return {.model = bytes_below("model") + bytes_below("model.part"),
          .run = bytes_below("blocks"),
          .clients = bytes_below("clients"),
          .states = bytes_below("state")};
}

namespace {

void check_disk_fits(const DiskBytes& needed, std::int64_t available, const DiskBytes& in_use) {
  const auto more = [](std::int64_t need, std::int64_t have) {
    return std::max<std::int64_t>(need - have, 0);
  };
  const std::int64_t missing = more(needed.model, in_use.model) + more(needed.run, in_use.run) +
                               more(needed.clients, in_use.clients) + more(needed.states, in_use.states);
  const bool may_save = needed.clients > 0 && needed.model > 0;  // aggregation "none" has nothing else
  check<ResourceError>(
      missing <= available,
      fmt::format(
          "disk: the run directory needs about {} MB{}, found {} MB free; choose another run.dir{}",
          megabytes(missing),
          in_use.all() > 0 ? fmt::format(" beside the {} MB that it holds", megabytes(in_use.all())) : "",
          megabytes(available),
          may_save ? " or set run.keep_clients = false (and report.standalone = false)" : ""));
}

}  // namespace

void check_fits(const Forecast& forecast, std::int64_t memory_available, int ranks_on_host,
                std::int64_t disk_available, const DiskBytes& in_use) {
  std::vector<std::int64_t> peaks;
  for (const RankForecast& rank : forecast.ranks) peaks.push_back(rank.peak_bytes());
  std::sort(peaks.rbegin(), peaks.rend());
  std::int64_t need = 0;  // the worst set of ranks that can share a host
  for (std::size_t i = 0; i < peaks.size() && i < static_cast<std::size_t>(ranks_on_host); ++i)
    need += peaks[i];
  check<ResourceError>(
      need <= memory_available,
      fmt::format("memory: {} ranks on a host need about {} MB, found {} MB available; use fewer clients or "
                  "ranks per host, fewer samples, or shorter sequences (see --dry-run)",
                  ranks_on_host, megabytes(need), megabytes(memory_available)));
  check_disk_fits(forecast.disk, disk_available, in_use);
}

}  // namespace fedspallm::app
