// SPDX-License-Identifier: Apache-2.0
// The output of a run: the model directory, written by all ranks, and what marks the run as complete.
#include "fedspallm/base/error.hpp"

#include "prune_run.hpp"
#include <algorithm>

namespace fedspallm::app {

namespace {

constexpr int kBlocksAtOnce = 4;  // as much memory as merging takes, once pruning is over

}  // namespace

/// Collective, while no exchange runs: run.h5 of a run under way, so that `inspect` shows what it is. It
/// links to the blocks of now; the list of those that count is manifest.json.
void PruneRun::write_unfinished_links() {
  at_root([&] { store_->write_links(provenance(), /*complete=*/false); });
}

void PruneRun::save() {
  store::Provenance mine;
  communicator_.together([&] {
    if (config_.run.keep_clients || root()) mine = provenance();
    clients_->finish(mine, identity_.dropped);
    if (root() && merges()) ledger_->record_dense_blocks(*inputs_.model);
  });
  if (merges()) write_model();
  at_root([&] {
    if (merges()) writer_->finish();
    store_->write_links(mine, /*complete=*/true);
    log_->info("{}: written and complete", (merges() ? paths_.model() : paths_.clients()).string());
  });
}

/// Shard s is written by rank s mod ranks (by the root alone where the others do not see its folder), from
/// the dense model and the block files, whoever wrote those.
void PruneRun::write_model() {
  const store::BlockFiles files = block_files();
  const auto rank = static_cast<std::size_t>(communicator_.rank());
  const std::size_t writers = shared_folder_ ? static_cast<std::size_t>(communicator_.size()) : 1;
  const store::BlockSource blocks = [&](std::int64_t block) {
    watchdog_.beat(phase_, block);
    if (const std::string signal = signals_.stop_signal(); !signal.empty())
      throw Stopped(
          fmt::format("stopped on {} while the model was saved; the same command repeats it", signal));
    return files.newest(static_cast<std::uint32_t>(block), store::Votes::skip);
  };
  const double begin = now();
  communicator_.together([&] {
    for (std::size_t shard = rank; rank < writers && shard < writer_->shards(); shard += writers)
      writer_->write_shard(shard, blocks, std::min(threads_, kBlocksAtOnce));
    writing_model_ = now() - begin;
  });
}

}  // namespace fedspallm::app
