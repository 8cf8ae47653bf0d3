// SPDX-License-Identifier: Apache-2.0
// run.h5: changes to a sound HDF5 file (hostile_hdf5.hpp), its texts and JSON documents included.
#include "fuzz/hostile_hdf5.hpp"
#include "store/link_file.hpp"

using namespace fedspallm;

namespace {

store::LinkFile sample() {
  store::LinkFile content;
  content.complete = true;
  content.provenance.config_toml = "[model]\npath = \"/m\"\n";
  content.provenance.entries = {{"version", "0.1.0"}, {"model_sha256", "abc"}};
  content.provenance.clients = {"novels", "jargon"};
  content.provenance.token_sha256 = {"1", "2"};
  content.provenance.warnings = {"a warning"};
  content.provenance.blocks = 2;
  content.provenance.sparsity = 0.5;
  return content;
}

std::string sound_file() {
  const std::filesystem::path path = fuzz::scratch() / "sound.h5";
  store::write_link_file(path, sample(), {"blocks/r01-b0000.h5"});
  return fuzz::read_file(path);
}

const std::vector<fuzz::Object>& objects() {
  using fuzz::ObjectKind;
  static const std::vector<fuzz::Object> all = {
      {ObjectKind::dataset, "/", "config_toml"},   {ObjectKind::dataset, "/", "provenance"},
      {ObjectKind::dataset, "/", "clients"},       {ObjectKind::dataset, "/", "token_sha256"},
      {ObjectKind::dataset, "/", "warnings"},      {ObjectKind::group, "/", "blocks"},
      {ObjectKind::attribute, "/", "kind"},        {ObjectKind::attribute, "/", "format_version"},
      {ObjectKind::attribute, "/", "complete"},    {ObjectKind::attribute, "/", "rounds"},
      {ObjectKind::attribute, "/", "block_count"}, {ObjectKind::attribute, "/", "sparsity"}};
  return all;
}

/// What was read can be written, and reads back the same.
void check_accepted(const store::LinkFile& content) {
  const std::filesystem::path path = fuzz::scratch() / "again.h5";
  store::write_link_file(path, content, {});
  const store::LinkFile again = store::read_link_file(path);
  fuzz::promise(again.complete == content.complete, "complete");
  const store::Provenance &a = content.provenance, &b = again.provenance;
  fuzz::promise(a.config_toml == b.config_toml && a.entries == b.entries, "configuration and provenance");
  fuzz::promise(a.clients == b.clients && a.token_sha256 == b.token_sha256 && a.warnings == b.warnings,
                "lists");
  fuzz::promise(a.rounds == b.rounds && a.blocks == b.blocks && a.sparsity == b.sparsity, "numbers");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string sound = sound_file();
  const std::filesystem::path path = fuzz::scratch() / "hostile.h5";
  fuzz::Source source({data, size});
  fuzz::write_hostile_file(path, sound, objects(), source);
  store::LinkFile content;
  if (fuzz::accepts([&] { content = store::read_link_file(path); })) check_accepted(content);
  return 0;
}
