// SPDX-License-Identifier: Apache-2.0
// Purpose: records, stores and damaged files for the tests of store/.
#pragma once

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/inspect.hpp"
#include "fedspallm/store/model_writer.hpp"
#include "fedspallm/store/run_store.hpp"

#include <gtest/gtest.h>

#include "store/manifest.hpp"
#include "support/expect_error.hpp"
#include "support/safetensors_builder.hpp"
#include "support/support.hpp"
#include "support/tiny_model.hpp"
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::store::test {

using fedspallm::test::expect_error;
using fedspallm::test::TemporaryFolder;
using fedspallm::test::write_file;
namespace fs = std::filesystem;

/// How many of the weights are dropped.
enum class Dropped { none, half, all };

/// Keyed random values (a few of them 0) and masks.
inline wire::PackedMatrix random_packed(std::int64_t rows, std::int64_t cols, DType dtype, Dropped dropped,
                                        std::uint64_t seed = 1) {
  const RandomKey key{.seed = seed, .use = RandomUse::simulation};
  std::vector<float> dense;
  std::vector<std::uint8_t> kept;
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const std::uint64_t bits = random_bits(key, static_cast<std::uint64_t>(i));
    dense.push_back(
        bits % 7 == 0 ? 0.0F : static_cast<float>(static_cast<std::int64_t>(bits >> 40)) / 65536.0F - 100.0F);
    kept.push_back(dropped == Dropped::none || (dropped == Dropped::half && (bits >> 20) % 2 == 0) ? 1 : 0);
  }
  return wire::pack(rows, cols, dtype, dense, kept);
}

inline bool is_kept(const wire::PackedMatrix& matrix, std::int64_t i) {
  return ((matrix.bits[static_cast<std::size_t>(i / 64)] >> (i % 64)) & 1) != 0;
}

/// A record whose counts all agree: dropped weights are those with `clients` votes (common zeros), the others
/// have fewer.
inline MatrixRecord consistent_record(const std::string& name, wire::PackedMatrix matrix,
                                      std::uint32_t clients, std::uint64_t seed = 1) {
  MatrixRecord record;
  record.name = name;
  record.histogram.assign(clients + 1, 0);
  for (std::int64_t i = 0; i < matrix.size(); ++i) {
    const std::uint64_t bits =
        random_bits({.seed = seed, .use = RandomUse::simulation, .client = 9}, static_cast<std::uint64_t>(i));
    const std::uint32_t votes = is_kept(matrix, i) ? static_cast<std::uint32_t>(bits % clients) : clients;
    record.votes.push_back(votes);
    ++record.histogram[votes];
  }
  record.target = matrix.dropped();
  record.common_zeros = matrix.dropped();
  record.kept_zeros = wire::count_kept_zeros(matrix);
  for (std::uint32_t client = 0; client < clients; ++client) {
    // Client c dropped what more than c clients dropped.
    const auto kept = std::count_if(record.votes.begin(), record.votes.end(),
                                    [&](std::uint32_t votes) { return votes <= client; });
    ClientPart part{
        .client = client, .kept = kept, .report = {.error = 1.5, .seconds = 0.25, .kept_zeros = 3}};
    part.report.damping_steps = static_cast<std::int32_t>(client % 3);
    part.report.damping = 0.01F;
    part.report.dead_columns = client;
    record.clients.push_back(part);
  }
  record.matrix = std::move(matrix);
  return record;
}

inline void expect_equal(const ClientPart& found, const ClientPart& expected) {
  EXPECT_EQ(found.client, expected.client);
  EXPECT_EQ(found.kept, expected.kept);
  EXPECT_TRUE(found.report == expected.report);
}

inline void expect_equal(const MatrixRecord& found, const MatrixRecord& expected) {
  EXPECT_EQ(found.name, expected.name);
  EXPECT_EQ(found.pruned, expected.pruned);
  EXPECT_TRUE(found.matrix == expected.matrix) << found.name;
  EXPECT_EQ(found.votes, expected.votes);
  EXPECT_EQ(found.histogram, expected.histogram);
  EXPECT_EQ(found.target, expected.target);
  EXPECT_EQ(found.common_zeros, expected.common_zeros);
  EXPECT_EQ(found.expanded, expected.expanded);
  EXPECT_EQ(found.kept_zeros, expected.kept_zeros);
  EXPECT_EQ(found.keep, expected.keep);
  EXPECT_EQ(found.group, expected.group);
  ASSERT_EQ(found.clients.size(), expected.clients.size());
  for (std::size_t i = 0; i < found.clients.size(); ++i) expect_equal(found.clients[i], expected.clients[i]);
}

inline void expect_equal(const BlockRecord& found, const BlockRecord& expected) {
  EXPECT_EQ(found.round, expected.round);
  EXPECT_EQ(found.block, expected.block);
  ASSERT_EQ(found.matrices.size(), expected.matrices.size());
  for (std::size_t i = 0; i < found.matrices.size(); ++i)
    expect_equal(found.matrices[i], expected.matrices[i]);
}

/// A dense matrix of the model, pruned: every third weight dropped, or the first N of every M kept.
inline wire::PackedMatrix prune_tensor(const model::ModelDirectory& model, std::int64_t block,
                                       std::size_t matrix, DType dtype, int keep = 0, int group = 0) {
  const model::TensorView tensor = model.tensor(model.matrix_name(block, matrix));
  const std::int64_t rows = tensor.entry->shape[0];
  const std::int64_t cols = tensor.entry->shape[1];
  std::vector<float> dense(static_cast<std::size_t>(rows * cols));
  widen(tensor.dtype(), tensor.bytes.data(), dense.data(), dense.size());
  std::vector<std::uint8_t> kept(dense.size());
  for (std::size_t i = 0; i < kept.size(); ++i)
    kept[i] = group > 0 ? static_cast<int>(i) % group < keep : i % 3 != 0;
  return wire::pack(rows, cols, dtype, dense, kept);
}

/// All matrices of a block of the model, pruned, in records whose counts agree.
inline BlockRecord pruned_block(const model::ModelDirectory& model, std::uint32_t block, DType dtype,
                                std::uint32_t clients = 3) {
  BlockRecord record{.round = 1, .block = block, .matrices = {}};
  for (std::size_t i = 0; i < model.architecture().matrices.size(); ++i)
    record.matrices.push_back(
        consistent_record(model.matrix_name(block, i), prune_tensor(model, block, i, dtype), clients, i + 1));
  return record;
}

/// One record of a matrix of the model, without anything but its weights.
inline MatrixRecord weights_of(const model::ModelDirectory& model, std::int64_t block, std::size_t matrix,
                               wire::PackedMatrix packed) {
  MatrixRecord record;
  record.name = model.matrix_name(block, matrix);
  record.matrix = std::move(packed);
  return record;
}

/// Blocks by number.
inline BlockSource source_of(std::map<std::int64_t, BlockRecord> blocks) {
  return [blocks = std::move(blocks)](std::int64_t block) -> std::optional<BlockRecord> {
    const auto found = blocks.find(block);
    if (found == blocks.end()) return std::nullopt;
    return found->second;
  };
}

inline BlockSource nothing_pruned() {
  return source_of({});
}

inline Provenance provenance_of(const model::ModelDirectory& model, const std::string& dtype = "stored") {
  Provenance provenance;
  provenance.config_toml = "[model]\npath = \"" + model.path().string() + "\"\ndtype = \"" + dtype + "\"\n";
  provenance.entries = {{"version", "0.1.0"}, {"git", "abc"}, {"model_sha256", model.digest()}};
  provenance.clients = {"novels", "python docs", "jargon"};
  provenance.token_sha256 = {"1", "2", "3"};
  provenance.warnings = {"a warning"};
  provenance.blocks = model.architecture().blocks;
  provenance.sparsity = 0.5;
  return provenance;
}

// ---------------------------------------------------------------- files

/// config.json and weights of a model of tests/data, copied so that tests may change them.
inline void copy_model(const std::string& name, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(fedspallm::test::data_path(name))) {
    const std::string file = entry.path().filename().string();
    if (file == "config.json" || file.starts_with("model")) fs::copy_file(entry.path(), to / file);
  }
}

/// "goldens/llama-fp16" as a part of a test's name.
inline std::string test_name(std::string model) {
  std::replace_if(
      model.begin(), model.end(), [](char c) { return c == '-' || c == '/'; }, '_');
  return model;
}

inline std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.is_open()) << path;
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// Name -> bytes of the files of a folder (not of its sub-folders).
inline std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

inline std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline void flip_bit(const fs::path& path, std::size_t offset, int bit = 0) {
  std::string bytes = read_file(path);
  bytes.at(offset) = static_cast<char>(bytes.at(offset) ^ (1 << bit));
  write_file(path, bytes);
}

/// Makes the manifest of a run directory agree with a block file that a test has replaced.
inline void restamp(const RunPaths& paths, std::uint32_t round, std::uint32_t block) {
  Manifest manifest = read_manifest(paths.manifest());
  const fs::path file = BlockStore::of_run(paths).block_file(round, block);
  manifest.put({round, block, stamp_of(file)});
  write_manifest(paths.manifest(), manifest);
}

}  // namespace fedspallm::store::test
