// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/data/tokens.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/data/hdf5.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace fedspallm::data {

namespace {

constexpr const char* kDataset = "tokens";

/// Where attribute `name` stands: on the file, as tools/tokenize_text.py writes it, else on the dataset; ""
/// if nowhere.
std::string holder_of(const hdf5::Group& root, const std::string& name) {
  for (const char* holder : {".", kDataset})
    if (root.has_attribute(name, holder)) return holder;
  return "";
}

std::string text_attribute(const hdf5::Group& root, const std::string& name) {
  const std::string holder = holder_of(root, name);
  return holder.empty() ? "" : root.read_string(name, holder);
}

/// A hash is shown in a warning and travels as JSON: what is no text at all is refused.
std::string hash_attribute(const hdf5::Group& root, const std::string& name) {
  const std::string text = text_attribute(root, name);
  check<DataError>(
      std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; }),
      fmt::format(
          "{}: attribute '{}': holds other than printable ASCII, expected hexadecimal digits or nothing",
          root.file(), name));
  return text;
}

std::int64_t integer_attribute(const hdf5::Group& root, const std::string& name) {
  const std::string holder = holder_of(root, name);
  return holder.empty() ? 0 : root.read_integer(name, holder);
}

std::vector<std::int32_t> read_ids(const hdf5::Group& root) {
  const std::string& file = root.file();
  check<DataError>(root.contains(kDataset), fmt::format("{}: no dataset '{}' in it", file, kDataset));
  const hdf5::DatasetInfo info = root.describe(kDataset);
  check<DataError>(info.type == "int32" || info.type == "uint16",
                   fmt::format("{}: /{}: has type {}, expected int32 or uint16", file, kDataset, info.type));
  std::vector<std::int32_t> ids;
  if (info.type == "int32") {
    ids = root.read<std::int32_t>(kDataset);
  } else {
    const std::vector<std::uint16_t> narrow = root.read<std::uint16_t>(kDataset);
    ids.assign(narrow.begin(), narrow.end());
  }
  check<DataError>(!ids.empty(),
                   fmt::format("{}: /{}: is empty, expected at least one token", file, kDataset));
  return ids;
}

/// Whole windows of `file`, or the reason why there are not enough tokens.
void check_enough(const TokenFile& file, std::int64_t windows, std::int64_t length, std::int64_t needed) {
  const auto found = static_cast<std::int64_t>(file.tokens.size());
  check<DataError>(found >= needed,
                   fmt::format("{}: holds {} tokens, expected at least {} for {} window{} of {}",
                               file.path.string(), found, needed, windows, windows == 1 ? "" : "s", length));
}

void check_window_sizes(std::int64_t samples, std::int64_t length) {
  require(length > 0, "windows have at least one token");
  require(samples <= std::numeric_limits<std::int64_t>::max() / length, "samples * length is below 2^63");
}

}  // namespace

TokenFile read_token_file(const std::filesystem::path& path, std::int64_t vocab_size) {
  require(vocab_size > 0, "vocab_size > 0");
  const hdf5::File file = hdf5::File::open(path);
  const hdf5::Group& root = file.root();
  TokenFile result;
  result.path = path;
  result.tokens = read_ids(root);
  result.vocab_size = integer_attribute(root, "vocab_size");
  result.tokenizer_sha256 = hash_attribute(root, "tokenizer_sha256");
  result.source = text_attribute(root, "source");
  const auto bad = std::find_if(result.tokens.begin(), result.tokens.end(),
                                [&](std::int32_t id) { return id < 0 || id >= vocab_size; });
  if (bad != result.tokens.end()) {
    throw DataError(
        fmt::format("{}: /{}: token {} is {}, expected an id from 0 to {} (the model's vocab_size - 1)",
                    path.string(), kDataset, bad - result.tokens.begin(), *bad, vocab_size - 1));
  }
  return result;
}

Windows sequential_windows(const TokenFile& file, std::int64_t samples, std::int64_t length) {
  check_window_sizes(samples, length);
  const auto found = static_cast<std::int64_t>(file.tokens.size());
  const std::int64_t count = samples < 0 ? std::max<std::int64_t>(1, found / length) : samples;
  check_enough(file, count, length, count * length);
  return {count, length,
          std::vector<std::int32_t>(file.tokens.begin(), file.tokens.begin() + count * length)};
}

Windows random_windows(const TokenFile& file, std::int64_t samples, std::int64_t length, std::uint64_t seed,
                       std::uint32_t client) {
  check_window_sizes(samples, length);
  require(samples >= 0, "samples >= 0");
  check_enough(file, samples, length, length);
  const auto starts = static_cast<std::uint64_t>(static_cast<std::int64_t>(file.tokens.size()) - length + 1);
  const RandomKey key{
      .seed = seed, .use = RandomUse::calibration_window, .round = 0, .client = client, .block = 0};
  Windows result{samples, length, {}};
  result.tokens.reserve(static_cast<std::size_t>(samples * length));
  for (std::int64_t window = 0; window < samples; ++window) {
    const auto start =
        static_cast<std::int64_t>(random_below(key, static_cast<std::uint64_t>(window), starts));
    result.tokens.insert(result.tokens.end(), file.tokens.begin() + start,
                         file.tokens.begin() + start + length);
  }
  return result;
}

TokenFile concatenate(std::vector<TokenFile> files) {
  require(!files.empty(), "at least one token file");
  TokenFile result = std::move(files.front());
  for (std::size_t i = 1; i < files.size(); ++i) {
    const TokenFile& next = files[i];
    result.tokens.insert(result.tokens.end(), next.tokens.begin(), next.tokens.end());
    result.path += "+" + next.path.string();
    if (!next.source.empty()) result.source += (result.source.empty() ? "" : ", ") + next.source;
    // Only what all files agree on is known of the whole.
    if (next.tokenizer_sha256 != result.tokenizer_sha256) result.tokenizer_sha256.clear();
    if (next.vocab_size != result.vocab_size) result.vocab_size = 0;
  }
  return result;
}

}  // namespace fedspallm::data
