// SPDX-License-Identifier: Apache-2.0
// Purpose: what `inspect` and `export` do: recount zeros and N:M groups from files, compare with the record,
// write model directories from a run. Output formats: rulings.md 12. Non-goal: perplexity (report/).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::store {

struct InspectedMatrix {
  std::string name;
  std::int64_t block = 0, rows = 0, columns = 0;
  std::int64_t dropped = 0;  // counted from the mask (run) or equal to zeros (model)
  std::int64_t zeros = 0;    // zeros in the values as they would be in the model file
  std::int64_t target = -1;
  std::vector<std::int64_t> votes;  // histogram, recounted; empty for a model
  std::string client;               // whose it is, where a run merges nothing; else ""
};

struct Inspection {
  std::string kind;  // "run" | "model"
  bool complete = true;
  std::vector<std::string> problems;  // empty = ok
  double sparsity = 0;                // dropped / prunable weights
  std::vector<InspectedMatrix> matrices;
  std::vector<std::pair<std::string, std::string>> provenance;
  std::vector<std::string> clients;
  /// A run that merges nothing: of each client's own result, in the order of `clients`; those left out are
  /// missing. `sparsity` is their mean.
  std::vector<std::pair<std::string, double>> client_sparsity;
};

/// A run file, a run directory (its model/, when there, is recounted too) or a model directory.
[[nodiscard]] Inspection inspect(const std::filesystem::path& path);
[[nodiscard]] std::string to_json(const Inspection& inspection);
[[nodiscard]] std::string to_text(const Inspection& inspection);

enum class ExportFormat { huggingface, bitmask };

struct ExportResult {
  std::int64_t dense_bytes = 0;    // of the Hugging Face directory
  std::int64_t written_bytes = 0;  // of what was written
  [[nodiscard]] double ratio() const {
    return dense_bytes > 0 ? static_cast<double>(written_bytes) / static_cast<double>(dense_bytes) : 1.0;
  }
};

/// Writes a Hugging Face directory, or a directory with one file model.fspm (our small lossless bitmask
/// format, laid out in src/store/bitmask.hpp), from a run directory and its input model.
/// @param out  a new or empty directory
/// @param client  a stand-alone client's result instead of the merged one
/// @param model_path  the dense model where it is not at the path that the run recorded
/// @throws DataError for an unfinished or damaged run, ModelError when the dense model is not the one of the
/// run,
///         ConfigError for an unknown client or an `out` in use
ExportResult export_run(const std::filesystem::path& run_dir, const std::filesystem::path& out,
                        ExportFormat format, const std::optional<std::string>& client,
                        const std::optional<std::filesystem::path>& model_path);
/// Back from model.fspm, which holds everything, to the Hugging Face directory it was made from, byte for
/// byte.
/// @param dense_model  not needed; when given (and not ""), it must be the model that the file was made from
ExportResult unpack_bitmask(const std::filesystem::path& bitmask_file,
                            const std::optional<std::filesystem::path>& dense_model,
                            const std::filesystem::path& out);

}  // namespace fedspallm::store
