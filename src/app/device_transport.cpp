// SPDX-License-Identifier: Apache-2.0
#include "device_transport.hpp"

#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/wire/device.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace fedspallm::app {

namespace {

constexpr double kJoinSeconds = 60;  // for the ranks to find each other

// The backend's sums are comm's tiles.
static_assert(sizeof(aggregate::Tile) == 64 * 8 + 64 * 4 && offsetof(aggregate::Tile, sum) == 0 &&
              offsetof(aggregate::Tile, kept) == 64 * 8);

backend::UpdateOps::Tie tie_of(aggregate::TieRule rule) {
  using backend::UpdateOps;
  if (rule == aggregate::TieRule::score) return UpdateOps::Tie::score;
  return rule == aggregate::TieRule::magnitude ? UpdateOps::Tie::magnitude : UpdateOps::Tie::index;
}

class BackendMerge final : public comm::DeviceMerge {
 public:
  BackendMerge(backend::UpdateOps& ops, std::shared_ptr<std::byte> tiles, std::int64_t rows,
               std::int64_t cols, DType dtype, int q)
      : ops_(ops), tiles_(std::move(tiles)), rows_(rows), cols_(cols), dtype_(dtype), q_(q) {
    ops_.clear(rows_ * cols_, tiles_.get());
  }
  Found add(const std::byte* update, std::int64_t kept) override {
    const wire::DeviceLayout layout = wire::device_layout(rows_, cols_, kept, dtype_, false);
    const backend::UpdateOps::Added added = ops_.add({.bits = update + layout.bits,
                                                      .values = update + layout.values,
                                                      .weights = rows_ * cols_,
                                                      .kept = kept,
                                                      .dtype = dtype_},
                                                     q_, tiles_.get());
    return {added.kept, added.padding_set, added.largest};
  }
  aggregate::MergedMatrix finish(std::int64_t clients, const aggregate::MergeRules& rules,
                                 std::span<const std::int64_t> diagonal_sums) override {
    const bool in_groups = rules.expand && rules.group > 0;
    backend::UpdateOps::Finish how{.rows = rows_,
                                   .cols = cols_,
                                   .dtype = dtype_,
                                   .q = q_,
                                   .clients = static_cast<std::uint32_t>(clients),
                                   .divide_by_all = rules.averaging == aggregate::Averaging::mean,
                                   .tie = tie_of(rules.tie)};
    if (rules.expand && rules.tie == aggregate::TieRule::score) how.column_weights = diagonal_sums;
    if (rules.expand && !in_groups) how.target = exact_count(rules.sparsity, rows_ * cols_);
    if (in_groups) how.keep = rules.keep, how.group = rules.group;
    backend::UpdateOps::Finished done = ops_.finish(how, tiles_.get());
    aggregate::MergedMatrix merged;
    merged.matrix.rows = rows_;
    merged.matrix.cols = cols_;
    merged.matrix.dtype = dtype_;
    merged.matrix.kept = done.kept;
    merged.matrix.bits = std::move(done.bits);
    merged.matrix.values = std::move(done.values);
    merged.votes = std::move(done.votes);
    merged.histogram.assign(done.kept_by.rbegin(), done.kept_by.rend());
    merged.common_zeros = done.kept_by[0];
    merged.expanded = done.expanded;
    merged.target = in_groups ? rows_ * cols_ / rules.group * (rules.group - rules.keep) : how.target;
    merged.above_target = done.above_target;
    merged.kept_zeros = done.kept_zeros;
    return merged;
  }

 private:
  backend::UpdateOps& ops_;
  std::shared_ptr<std::byte> tiles_;
  std::int64_t rows_, cols_;
  DType dtype_;
  int q_;
};

class BackendPort final : public comm::DevicePort {
 public:
  explicit BackendPort(backend::UpdateOps& ops) : ops_(ops) {}

  std::shared_ptr<std::byte> allocate(std::int64_t bytes) override { return ops_.allocate(bytes); }
  void upload(std::span<const std::byte> host, std::byte* device) override { ops_.write(host, device); }
  void download(const std::byte* device, std::span<std::byte> host) override { ops_.read(device, host); }
  /// One merge at a time, so its sums lie where the one before had them.
  std::unique_ptr<comm::DeviceMerge> begin_merge(std::int64_t rows, std::int64_t cols, DType dtype,
                                                 int q) override {
    const std::int64_t bytes = std::max<std::int64_t>(1, wire::mask_words(rows * cols)) *
                               static_cast<std::int64_t>(sizeof(aggregate::Tile));
    if (bytes > tile_bytes_) {
      tiles_.reset();  // first: the old and the new one need not fit together
      tiles_ = ops_.allocate(bytes);
      tile_bytes_ = bytes;
    }
    return std::make_unique<BackendMerge>(ops_, tiles_, rows, cols, dtype, q);
  }

 private:
  backend::UpdateOps& ops_;
  std::shared_ptr<std::byte> tiles_;
  std::int64_t tile_bytes_ = 0;
};

/// What every rank says of itself, the same on all.
std::vector<comm::RankDevice> all_ranks(comm::Communicator& communicator, const comm::RankDevice& own) {
  const nlohmann::json mine = {{"host", own.host},
                               {"uuid", own.uuid},
                               {"nccl", own.nccl},
                               {"lacks", own.lacks},
                               {"clients", own.clients}};
  nlohmann::json table = nlohmann::json::array();
  for (const std::string& text : communicator.gather(mine.dump()))
    if (!text.empty()) table.push_back(nlohmann::json::parse(text));
  table = nlohmann::json::parse(communicator.broadcast(table.dump()));
  std::vector<comm::RankDevice> ranks;
  for (const auto& one : table)
    ranks.push_back({one["host"], one["uuid"], one["nccl"], one["lacks"], one["clients"]});
  return ranks;
}

}  // namespace

std::unique_ptr<comm::DevicePort> make_device_port(backend::Backend& backend) {
  return std::make_unique<BackendPort>(backend.updates());
}

DeviceChoice choose_device_transport(comm::Communicator& communicator, backend::Backend& backend,
                                     const std::optional<backend::CudaDevice>& device,
                                     config::TransportKind kind, bool has_clients) {
  if (kind != config::TransportKind::nccl && kind != config::TransportKind::automatic) return {};
  comm::RankDevice own{.host = communicator.host(), .clients = has_clients};
  if (device) {
    const comm::NcclLibrary library = comm::nccl_library();
    own.uuid = device->uuid;
    own.nccl = library.version;
    own.lacks = library.lacks;
  }
  const std::vector<comm::RankDevice> ranks = all_ranks(communicator, own);
  const comm::DeviceDecision decision = comm::decide_device(ranks);
  const bool demanded = kind == config::TransportKind::nccl;
  DeviceChoice choice;
  choice.reason = decision.reason;
  if (decision.possible) {
    try {
      auto transport = std::make_shared<comm::DeviceTransport>();
      transport->link =
          comm::make_nccl_link(communicator, decision.ranks, device ? device->index : 0, kJoinSeconds);
      if (decision.takes_part(communicator.rank())) transport->port = make_device_port(backend);
      choice.transport = std::move(transport);
      return choice;
    } catch (const PeerError& error) {  // the same on every rank
      if (demanded) throw;
      choice.reason = error.what();
    }
  }
  check<ConfigError>(!demanded,
                     fmt::format("federation.transport: found \"nccl\", but {}; \"auto\" takes the way "
                                 "through host memory then",
                                 choice.reason));
  choice.warn = std::any_of(ranks.begin(), ranks.end(), [](const auto& rank) { return !rank.uuid.empty(); });
  return choice;
}

}  // namespace fedspallm::app
