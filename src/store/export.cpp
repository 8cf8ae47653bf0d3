// SPDX-License-Identifier: Apache-2.0
// `export` and its reverse: a run directory and its dense model become a model directory or a bitmask file.
#include "fedspallm/base/error.hpp"
#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/inspect.hpp"
#include "fedspallm/store/model_writer.hpp"
#include "fedspallm/store/run_store.hpp"

#include <toml++/toml.h>

#include "bitmask.hpp"
#include "directory_swap.hpp"
#include "file_io.hpp"
#include "output_plan.hpp"
#include <algorithm>
#include <system_error>

namespace fedspallm::store {

namespace {

namespace fs = std::filesystem;

constexpr const char* kBitmaskFile = "model.fspm";

void require_new_folder(const fs::path& out) {
  std::error_code error;
  const bool used = fs::exists(out, error) && (!fs::is_directory(out, error) || !fs::is_empty(out, error));
  check<ConfigError>(
      !used, fmt::format("{}: exists and is not empty, expected a new or empty directory", out.string()));
}

std::string entry_of(const Provenance& provenance, std::string_view key) {
  for (const auto& [name, value] : provenance.entries)
    if (name == key) return value;
  return "";
}

/// What the run's configuration says of its input. Keys that this version does not know are no hindrance
/// here.
struct RunConfig {
  fs::path model_path;
  bool widen = false;
};

RunConfig read_run_config(const Provenance& provenance, const fs::path& run_file) {
  try {
    const toml::table table = toml::parse(std::string_view(provenance.config_toml));
    RunConfig config;
    config.model_path = table["model"]["path"].value_or(std::string());
    config.widen = table["model"]["dtype"].value_or(std::string("stored")) == "float32";
    return config;
  } catch (const toml::parse_error& error) {
    throw DataError(
        fmt::format("{}: its configuration cannot be read: {}", run_file.string(), error.description()));
  }
}

std::string list_of(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

/// The blocks of the merged model, or of one client's.
BlockStore open_store(const RunPaths& paths, const Provenance& provenance,
                      const std::optional<std::string>& client) {
  if (!client) {
    BlockStore store = BlockStore::of_run(paths);
    check<DataError>(!store.blocks().empty(),
                     fmt::format("{}: holds no merged model; export one client's by its name, one of: {}",
                                 paths.run_file().string(), list_of(provenance.clients)));
    return store;
  }
  const auto& names = provenance.clients;
  if (std::find(names.begin(), names.end(), *client) == names.end()) {
    const std::string nearest = nearest_name(*client, names.data(), names.size());
    throw ConfigError(
        fmt::format("client '{}': no such client in {}{}; there are: {}", *client, paths.run_file().string(),
                    nearest.empty() ? "" : fmt::format(", nearest is '{}'", nearest), list_of(names)));
  }
  BlockStore store = BlockStore::of_client(paths, *client);
  check<DataError>(store.complete(),
                   fmt::format("{}: is missing or unfinished; a run keeps it with run.keep_clients = true",
                               store.link_file().string()));
  check_client_is_of_run(paths, store);
  return store;
}

void require_same_model(const model::ModelDirectory& model, const std::string& expected,
                        const fs::path& run_file) {
  if (expected.empty()) return;
  const std::string found = model.digest();
  check<ModelError>(found == expected,
                    fmt::format("{}: is another model than the one of {}: found SHA-256 {}, expected {}",
                                model.path().string(), run_file.string(), found, expected));
}

bool is_matrix(const model::ModelDirectory& model, std::int64_t block, const std::string& name) {
  for (std::size_t i = 0; i < model.architecture().matrices.size(); ++i)
    if (model.matrix_name(block, i) == name) return true;
  return false;
}

/// A record must fit the model: the run may be older than a change of the directory whose digest was not
/// recorded.
void require_fits(const model::ModelDirectory& model, const BlockRecord& record, bool widen) {
  for (const MatrixRecord& entry : record.matrices) {
    if (!entry.pruned) continue;
    check<ModelError>(is_matrix(model, record.block, entry.name),
                      fmt::format("{}: {}: is no prunable matrix of block {}", model.path().string(),
                                  entry.name, record.block));
    const model::TensorView tensor = model.tensor(entry.name);
    const std::vector<std::int64_t> shape = {entry.matrix.rows, entry.matrix.cols};
    check<ModelError>(
        tensor.entry->shape == shape && tensor.entry->dtype,
        fmt::format("{}: {}: found shape [{}], expected [{}] as in the run", model.path().string(),
                    entry.name, fmt::join(tensor.entry->shape, ", "), fmt::join(shape, ", ")));
    const DType expected = widen ? DType::f32 : tensor.dtype();
    check<ModelError>(entry.matrix.dtype == expected,
                      fmt::format("{}: {}: found dtype {}, expected {} as in the run", model.path().string(),
                                  entry.name, name_of(expected), name_of(entry.matrix.dtype)));
  }
}

ExportResult export_directory(const model::ModelDirectory& model, const fs::path& out, bool widen,
                              const BlockSource& blocks) {
  write_model(model, out, widen, blocks);
  const std::int64_t bytes = plan_output(model, widen).bytes();
  return {bytes, bytes};
}

ExportResult export_bitmask(const model::ModelDirectory& model, const fs::path& out, bool widen,
                            const BlockSource& blocks, const std::string& model_sha256) {
  const OutputPlan plan = plan_output(model, widen);
  DirectorySwap folder(out);
  folder.refuse_to_replace(model.path());
  folder.start(plan.bytes());  // what it takes at most, less what the masks save
  const std::int64_t written =
      write_bitmask_file(folder.part() / kBitmaskFile, model, plan, model_sha256, blocks);
  folder.publish();
  return {plan.bytes(), written};
}

}  // namespace

namespace {

/// Refuses a run that is not finished, with what it has: run.h5 comes last.
void require_finished(const RunPaths& paths, const BlockStore& run) {
  std::error_code error;
  const bool has_links = fs::exists(paths.run_file(), error);
  if (has_links ? run.complete() : !fs::exists(paths.manifest(), error)) return;  // the latter is no run
  std::string expected;
  try {
    const std::string text =
        has_links ? run.read_provenance().config_toml : read_small_file(paths.config(), 1 << 24);
    const toml::table table = toml::parse(std::string_view(text));
    const model::ModelDirectory model(fs::path(table["model"]["path"].value_or(std::string())));
    expected = fmt::format(
        " of {}", table["federation"]["rounds"].value_or(std::int64_t{1}) * model.architecture().blocks);
  } catch (const toml::parse_error&) {  // the number is a courtesy
  } catch (const Error&) {
  }
  throw DataError(
      fmt::format("{}: the run is unfinished: {}{} blocks are merged; run the same `fedspallm prune` "
                  "again first",
                  paths.dir.string(), run.blocks().size(), expected));
}

}  // namespace

ExportResult export_run(const fs::path& run_dir, const fs::path& out, ExportFormat format,
                        const std::optional<std::string>& client, const std::optional<fs::path>& model_path) {
  const RunPaths paths{run_dir};
  const BlockStore run = BlockStore::of_run(paths);
  if (!client) require_finished(paths, run);  // a client's own result is there as soon as that client is done
  const Provenance provenance = run.read_provenance();
  require_new_folder(out);
  const BlockStore store = open_store(paths, provenance, client);
  const RunConfig config = read_run_config(provenance, paths.run_file());
  const fs::path source = model_path.value_or(config.model_path);
  check<DataError>(!source.empty(),
                   fmt::format("{}: records no model.path; name the dense model", paths.run_file().string()));
  const model::ModelDirectory model(source);
  const std::string digest = entry_of(provenance, "model_sha256");
  require_same_model(model, digest, paths.run_file());
  const BlockSource blocks = [&](std::int64_t block) {
    std::optional<BlockRecord> record = store.newest(static_cast<std::uint32_t>(block), Votes::skip);
    if (record) require_fits(model, *record, config.widen);
    return record;
  };
  if (format == ExportFormat::bitmask) return export_bitmask(model, out, config.widen, blocks, digest);
  return export_directory(model, out, config.widen, blocks);
}

ExportResult unpack_bitmask(const fs::path& bitmask_file, const std::optional<fs::path>& dense_model,
                            const fs::path& out) {
  require_new_folder(out);
  if (dense_model && !dense_model->empty())
    require_same_model(model::ModelDirectory(*dense_model), model_digest_of_bitmask_file(bitmask_file),
                       bitmask_file);
  DirectorySwap folder(out);
  folder.start(0);  // the space is checked when the sizes are known
  const std::int64_t bytes = unpack_bitmask_file(bitmask_file, folder.part());
  folder.publish();
  return {bytes, static_cast<std::int64_t>(fs::file_size(bitmask_file))};
}

}  // namespace fedspallm::store
