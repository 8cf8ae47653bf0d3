// SPDX-License-Identifier: Apache-2.0
// Token files: changes to a sound HDF5 file (hostile_hdf5.hpp).
#include "fedspallm/data/hdf5.hpp"
#include "fedspallm/data/tokens.hpp"

#include "fuzz/hostile_hdf5.hpp"

using namespace fedspallm;

namespace {

constexpr std::int64_t kVocabulary = 100;

std::string sound_file() {
  const std::filesystem::path path = fuzz::scratch() / "sound.h5";
  data::hdf5::File file = data::hdf5::File::create(path);
  file.root().write("tokens", std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 99, 0, 50});
  file.root().write_integer("vocab_size", kVocabulary);
  file.root().write_string("tokenizer_sha256", std::string(64, 'a'));
  file.root().write_string("source", "a text");
  file.close();
  return fuzz::read_file(path);
}

const std::vector<fuzz::Object>& objects() {
  using fuzz::ObjectKind;
  static const std::vector<fuzz::Object> all = {{ObjectKind::dataset, "/", "tokens"},
                                                {ObjectKind::attribute, "/", "vocab_size"},
                                                {ObjectKind::attribute, "/", "tokenizer_sha256"},
                                                {ObjectKind::attribute, "/", "source"},
                                                {ObjectKind::attribute, "/tokens", "vocab_size"},
                                                {ObjectKind::attribute, "/tokens", "source"}};
  return all;
}

void check_accepted(const data::TokenFile& file) {
  fuzz::promise(!file.tokens.empty(), "at least one token");
  for (const char c : file.tokenizer_sha256) fuzz::promise(c >= ' ' && c <= '~', "a hash is text");
  for (const std::int32_t token : file.tokens)
    fuzz::promise(token >= 0 && token < kVocabulary, "ids of the vocabulary");
  const auto count = static_cast<std::int64_t>(file.tokens.size());
  const data::Windows windows = data::sequential_windows(file, -1, count);
  fuzz::promise(windows.tokens == file.tokens, "one window of all tokens");
  const data::Windows drawn = data::random_windows(file, 2, count, 1, 0);
  fuzz::promise(drawn.samples == 2 && std::ssize(drawn.tokens) == 2 * count, "two windows of all tokens");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string sound = sound_file();
  const std::filesystem::path path = fuzz::scratch() / "hostile.h5";
  fuzz::Source source({data, size});
  fuzz::write_hostile_file(path, sound, objects(), source);
  data::TokenFile file;
  if (fuzz::accepts([&] { file = data::read_token_file(path, kVocabulary); })) check_accepted(file);
  return 0;
}
