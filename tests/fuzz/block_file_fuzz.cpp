// SPDX-License-Identifier: Apache-2.0
// Block files: changes to a sound HDF5 file (hostile_hdf5.hpp), as if someone had put the checksum right
// afterwards.
#include "fuzz/hostile_hdf5.hpp"
#include "fuzz/samples.hpp"
#include "store/block_file.hpp"
#include "store/packed_checks.hpp"
#include "store/recount.hpp"

using namespace fedspallm;

namespace {

std::string sound_file() {
  const std::filesystem::path path = fuzz::scratch() / "sound.h5";
  store::write_block_file(path, fuzz::sample_block());
  return fuzz::read_file(path);
}

std::vector<fuzz::Object> all_objects() {
  using fuzz::ObjectKind;
  std::vector<fuzz::Object> all;
  for (const char* name : {"format_version", "kind", "round", "block", "matrices"})
    all.push_back({ObjectKind::attribute, "/", name});
  for (const std::string matrix : {"a.weight", "b.weight", "c.weight"}) {
    all.push_back({ObjectKind::group, "/", matrix});
    for (const char* name : {"format_version", "name", "index", "pruned", "rows", "cols", "dtype", "kept",
                             "target", "expanded", "common_zeros", "kept_zeros", "N", "M"})
      all.push_back({ObjectKind::attribute, "/" + matrix, name});
    for (const char* name : {"mask", "values", "votes", "histogram"})
      all.push_back({ObjectKind::dataset, "/" + matrix, name});
    all.push_back({ObjectKind::group, "/" + matrix, "clients"});
    for (const char* name :
         {"client", "kept", "error", "seconds", "damping", "damping_steps", "dead_columns", "kept_zeros"})
      all.push_back({ObjectKind::dataset, "/" + matrix + "/clients", name});
  }
  return all;
}

/// What a reader may do with whatever was accepted: count it again, and where it is sound, unpack it.
void use(const store::BlockRecord& block) {
  for (const store::MatrixRecord& record : block.matrices) {
    fuzz::promise(record.matrix.rows >= 0 && record.matrix.cols >= 0, "no negative side");
    const store::Recount merged = store::recount(record, false);
    const store::Recount alone = store::recount(record, true);
    fuzz::promise(merged.sound == alone.sound, "a mask is sound or not, whatever the votes say");
    fuzz::promise(record.votes.empty() || std::ssize(record.votes) == record.matrix.size(),
                  "one vote per weight");
    if (!record.pruned || !merged.sound) continue;
    fuzz::promise(store::packing_fault(record.matrix).empty(), "sound matrices have no fault");
    fuzz::promise(merged.dropped == record.matrix.dropped(), "dropped weights are counted from the mask");
    std::vector<std::byte> dense(static_cast<std::size_t>(record.matrix.size()) *
                                 size_of(record.matrix.dtype));
    wire::unpack_stored(record.matrix, dense);
    fuzz::promise(store::first_difference(record.matrix, dense) == -1, "unpacking twice gives the same");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string sound = sound_file();
  static const std::vector<fuzz::Object> objects = all_objects();
  const std::filesystem::path path = fuzz::scratch() / "hostile.h5";
  fuzz::Source source({data, size});
  fuzz::write_hostile_file(path, sound, objects, source);
  store::BlockRecord block;
  if (fuzz::accepts([&] { block = store::read_block_file(path); })) use(block);
  return 0;
}
