// SPDX-License-Identifier: Apache-2.0
// What a writer tells the root of its block (app/written_block.hpp): the input is the text, of block 2 of
// round 1. The entry of a block file in it goes on into the run's list.
#include "fedspallm/store/run_store.hpp"

#include "app/written_block.hpp"
#include "fuzz/fuzz.hpp"
#include "store/manifest.hpp"

using namespace fedspallm;

namespace {

void check_accepted(const app::WrittenBlock& block) {
  const app::BlockSummary& summary = block.summary;
  fuzz::promise(summary.round == 1 && summary.block == 2, "the block is the expected one");
  fuzz::promise(summary.rank >= 0 && summary.clients >= 0 && summary.damping_steps >= 0, "no negative count");
  fuzz::promise(summary.dropped >= 0 && summary.dropped <= summary.weights, "dropped weights are weights");
  std::int64_t product = 0;
  fuzz::promise(!__builtin_mul_overflow(summary.clients, summary.weights, &product), "clients * weights");
  const std::string once = app::to_text(block);
  fuzz::promise(app::to_text(app::written_block_from_text(once, {1, 2})) == once, "a round trip");
}

/// Whether the root's list, written to a file, comes back with the entry.
void list(const std::string& entry) {
  const store::RunPaths paths{fuzz::scratch() / "run"};
  store::BlockStore run = store::BlockStore::of_run(paths);
  if (!fuzz::accepts([&] { run.list_block(entry); })) return;
  const store::BlockEntry listed = store::entry_from_text(entry);
  const store::Manifest manifest = store::read_manifest(paths.manifest());
  const store::BlockEntry* found = manifest.find(listed.round, listed.block);
  fuzz::promise(found != nullptr && found->stamp == listed.stamp, "a listed block is found");
  std::filesystem::remove_all(paths.dir);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text = fuzz::text_of({data, size});
  app::WrittenBlock block;
  if (!fuzz::accepts([&] { block = app::written_block_from_text(text, {1, 2}); })) return 0;
  check_accepted(block);
  list(block.entry);
  return 0;
}
