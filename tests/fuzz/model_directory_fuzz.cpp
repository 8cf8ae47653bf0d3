// SPDX-License-Identifier: Apache-2.0
// A model directory: the input's parts between lines "%%" are config.json (empty: the tiny model of the
// seeds), the index (empty: a single file), then shards 0, 1, 2. A shard "{...}#N" is a header, whose length
// is set right, and N bytes of data; any other text is the file itself.
#include "fedspallm/model/model_directory.hpp"

#include "fuzz/fuzz.hpp"
#include "fuzz/tiny.hpp"
#include "store/output_plan.hpp"
#include <charconv>

using namespace fedspallm;

namespace {

std::string shard_of(const std::string& part) {
  const std::size_t mark = part.rfind("}#");
  if (mark == std::string::npos) return part;
  std::size_t bytes = 0;
  std::from_chars(part.data() + mark + 2, part.data() + part.size(), bytes);
  std::string file(8, '\0');
  fuzz::set_word(file, 0, mark + 1);
  return file + part.substr(0, mark + 1) + std::string(bytes % 65536, '\0');
}

/// Writes the directory's files, and removes those of the input before.
void write_directory(const std::filesystem::path& folder, std::vector<std::string> parts) {
  parts.resize(5);
  std::filesystem::create_directories(folder);
  fuzz::write_file(folder / "config.json", parts[0].empty() ? fuzz::kTinyConfig : std::string_view(parts[0]));
  const bool sharded = !parts[1].empty();
  const std::vector<std::string> names =
      sharded ? std::vector<std::string>{"0", "1", "2"} : std::vector<std::string>{"model.safetensors"};
  for (const char* old : {"model.safetensors", "model.safetensors.index.json", "0", "1", "2"})
    std::filesystem::remove(folder / old);
  if (sharded) fuzz::write_file(folder / "model.safetensors.index.json", parts[1]);
  for (std::size_t i = 0; i < names.size(); ++i)
    if (!parts[2 + i].empty()) fuzz::write_file(folder / names[i], shard_of(parts[2 + i]));
}

void check_accepted(const model::ModelDirectory& model) {
  const model::Architecture& architecture = model.architecture();
  std::int64_t weights = 0;
  for (std::int64_t block = 0; block < architecture.blocks; ++block) {
    for (std::size_t i = 0; i < architecture.matrices.size(); ++i) {
      const model::TensorView view = model.tensor(model.matrix_name(block, i));
      const std::int64_t size = architecture.matrices[i].rows * architecture.matrices[i].cols;
      fuzz::promise(std::ssize(view.bytes) == size * static_cast<std::int64_t>(size_of(view.dtype())),
                    "a matrix has the bytes of its shape");
      weights += size;
    }
  }
  fuzz::promise(model.prunable_weights() == weights, "the pruned set is the sum of its matrices");
  for (const bool widen : {false, true}) {
    std::int64_t bytes = 0;
    if (!fuzz::accepts([&] { bytes = store::plan_output(model, widen).bytes(); })) continue;
    std::int64_t stored = 0;
    for (const model::SafetensorsFile& shard : model.shards()) stored += shard.file_bytes();
    fuzz::promise(bytes >= stored || widen, "the output holds every shard");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::filesystem::path folder = fuzz::scratch() / "model";
  write_directory(folder, fuzz::sections(fuzz::text_of({data, size})));
  fuzz::accepts([&] { check_accepted(model::ModelDirectory(folder)); });
  return 0;
}
