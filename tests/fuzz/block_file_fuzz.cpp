// SPDX-License-Identifier: Apache-2.0
// Block files: changes to a sound HDF5 file (hostile_hdf5.hpp), as if someone had put the checksum right
// afterwards. The first byte chooses the file: all three sample matrices, or (a third of the time to read)
// one of them.
#include "fuzz/hostile_hdf5.hpp"
#include "fuzz/samples.hpp"
#include "store/block_file.hpp"
#include "store/packed_checks.hpp"
#include "store/recount.hpp"

using namespace fedspallm;

namespace {

/// A sound file, and what can be changed in it.
struct Sample {
  std::string bytes;
  std::vector<fuzz::Object> objects;
};

void add_objects_of_matrix(const std::string& matrix, std::vector<fuzz::Object>& all) {
  using fuzz::ObjectKind;
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

Sample sample_of(const store::BlockRecord& block) {
  const std::filesystem::path path = fuzz::scratch() / "sound.h5";
  store::write_block_file(path, block);
  Sample sample{fuzz::read_file(path), {}};
  for (const char* name : {"format_version", "kind", "round", "block", "matrices"})
    sample.objects.push_back({fuzz::ObjectKind::attribute, "/", name});
  for (const store::MatrixRecord& record : block.matrices) add_objects_of_matrix(record.name, sample.objects);
  return sample;
}

std::vector<Sample> all_samples() {
  const store::BlockRecord block = fuzz::sample_block();
  std::vector<Sample> samples = {sample_of(block)};
  for (const store::MatrixRecord& record : block.matrices) {
    store::BlockRecord one = block;
    one.matrices = {record};
    samples.push_back(sample_of(one));
  }
  return samples;
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
  static const std::vector<Sample> samples = all_samples();
  const std::filesystem::path path = fuzz::scratch() / "hostile.h5";
  fuzz::Source source({data, size});
  const Sample& sample = samples[source.below(samples.size())];
  fuzz::write_hostile_file(path, sample.bytes, sample.objects, source);
  store::BlockRecord block;
  if (fuzz::accepts([&] { block = store::read_block_file(path); })) use(block);
  return 0;
}
