// SPDX-License-Identifier: Apache-2.0
// Purpose: token files (HDF5, dataset `tokens`) and the windows that calibration and evaluation take from
// them. Non-goals: tokenizing (tools/tokenize_text.py), padding, adding special tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::data {

/// A token file's content. `tokens` is 1-D, int32 or uint16 in the file (2-D data are refused).
struct TokenFile {
  std::filesystem::path path;
  std::vector<std::int32_t> tokens;
  std::int64_t vocab_size = 0;   // attribute, 0 = absent
  std::string tokenizer_sha256;  // attribute, "" = absent
  std::string source;            // attribute, "" = absent
};

/// @param vocab_size  of the model; every id is checked against it.
/// @throws DataError: file, what was found, what was expected.
[[nodiscard]] TokenFile read_token_file(const std::filesystem::path& path, std::int64_t vocab_size);

/// `samples` windows of `length` tokens, back to back.
struct Windows {
  std::int64_t samples = 0;
  std::int64_t length = 0;
  std::vector<std::int32_t> tokens;  // samples * length
};

/// Window i = tokens[i L, (i+1) L). `samples` < 0: all whole windows (at least one).
/// @throws DataError with the counts when there are too few tokens.
[[nodiscard]] Windows sequential_windows(const TokenFile& file, std::int64_t samples, std::int64_t length);
/// Starts uniform in [0, T - L], keyed by (seed, client, window).
[[nodiscard]] Windows random_windows(const TokenFile& file, std::int64_t samples, std::int64_t length,
                                     std::uint64_t seed, std::uint32_t client);
/// Several files as one stream, one after the other (for `tokens` given as a list): path "a.h5+b.h5";
/// vocab_size and hash are kept where all files agree (so compare the hashes file by file before). @pre not
/// empty
[[nodiscard]] TokenFile concatenate(std::vector<TokenFile> files);

}  // namespace fedspallm::data
