// SPDX-License-Identifier: Apache-2.0
// manifest.json, and the files it lists. The input's parts between lines "%%": the manifest; then, where
// given, raw bytes in place of the first block file, and of run.h5. A manifest that begins with a blank gets
// the checksum that its content should have. Files whose bytes are not those the manifest was made for must
// never reach HDF5.
#include "fedspallm/base/hash.hpp"
#include "fedspallm/store/run_store.hpp"

#include <nlohmann/json.hpp>

#include "fuzz/fuzz.hpp"
#include "fuzz/samples.hpp"
#include "store/manifest.hpp"

using namespace fedspallm;

namespace {

using Json = nlohmann::ordered_json;

struct SoundRun {
  store::RunPaths paths{fuzz::scratch() / "run"};
  std::string block, links;
  std::filesystem::path block_file = paths.blocks() / "r01-b0000.h5";

  SoundRun() {
    store::BlockStore store = store::BlockStore::of_run(paths);
    store.write_block(fuzz::sample_block());
    store.write_links({}, true);
    block = fuzz::read_file(block_file);
    links = fuzz::read_file(paths.run_file());
  }
};

std::string with_right_checksum(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return text;
  json.erase("xxh3");
  const std::string content = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  json["xxh3"] = fmt::format("{:016x}", checksum(fuzz::raw(content)));
  return json.dump(1, ' ', false, Json::error_handler_t::replace);
}

void use(const store::BlockStore& run, bool sound_block, bool sound_links) {
  for (const auto& [round, block] : run.blocks()) {
    const bool read = fuzz::accepts([&, r = round, b = block] { static_cast<void>(run.read_block(r, b)); });
    fuzz::promise(!read || sound_block, "a changed block file is not read");
    fuzz::promise(run.has_block(round, block), "a listed block is there");
  }
  const bool links = fuzz::accepts([&] { static_cast<void>(run.read_provenance()); });
  fuzz::promise(!links || sound_links, "a changed run.h5 is not read");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const SoundRun sound;
  std::vector<std::string> parts = fuzz::sections(fuzz::text_of({data, size}));
  parts.resize(3);
  const bool put_right = parts[0].starts_with(' ');
  fuzz::write_file(sound.paths.manifest(), put_right ? with_right_checksum(parts[0]) : parts[0]);
  const std::string& block = parts[1].empty() ? sound.block : parts[1];
  const std::string& links = parts[2].empty() ? sound.links : parts[2];
  fuzz::write_file(sound.block_file, block);
  fuzz::write_file(sound.paths.run_file(), links);
  const store::BlockStore run = store::BlockStore::of_run(sound.paths);
  if (!fuzz::accepts([&] { static_cast<void>(run.blocks()); })) return 0;
  use(run, block == sound.block, links == sound.links);
  // What was accepted is written and read back the same.
  const store::Manifest manifest = store::read_manifest(sound.paths.manifest());
  store::write_manifest(sound.paths.manifest(), manifest);
  const store::Manifest again = store::read_manifest(sound.paths.manifest());
  fuzz::promise(again.entries.size() == manifest.entries.size() && again.links == manifest.links,
                "a round trip");
  for (std::size_t i = 0; i < again.entries.size(); ++i)
    fuzz::promise(again.entries[i].stamp == manifest.entries[i].stamp, "a round trip of entries");
  return 0;
}
