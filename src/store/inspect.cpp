// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/inspect.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/run_store.hpp"

#include "recount.hpp"
#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <system_error>

namespace fedspallm::store {

namespace {

namespace fs = std::filesystem;

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

void sum_up(Inspection& inspection) {
  std::int64_t dropped = 0;
  std::int64_t size = 0;
  for (const InspectedMatrix& matrix : inspection.matrices) {
    dropped += matrix.dropped;
    size += matrix.rows * matrix.columns;
  }
  inspection.sparsity = size > 0 ? static_cast<double>(dropped) / static_cast<double>(size) : 0.0;
}

// ---------------------------------------------------------------- model directories

InspectedMatrix inspect_tensor(const model::ModelDirectory& model, std::int64_t block, std::size_t index) {
  InspectedMatrix matrix;
  matrix.name = model.matrix_name(block, index);
  const model::TensorView tensor = model.tensor(matrix.name);
  matrix.block = block;
  matrix.rows = tensor.entry->shape[0];
  matrix.columns = tensor.entry->shape[1];
  matrix.zeros = count_zeros(tensor.dtype(), tensor.bytes);
  matrix.dropped = matrix.zeros;
  return matrix;
}

Inspection inspect_model(const fs::path& path) {
  Inspection inspection;
  inspection.kind = "model";
  const model::ModelDirectory model(path);
  for (std::int64_t block = 0; block < model.architecture().blocks; ++block)
    for (std::size_t i = 0; i < model.architecture().matrices.size(); ++i)
      inspection.matrices.push_back(inspect_tensor(model, block, i));
  sum_up(inspection);
  return inspection;
}

// ---------------------------------------------------------------- runs

/// A run (or one client of it) read block by block; the model directory beside it, when there is one, is
/// compared.
class RunInspector {
 public:
  RunInspector(const BlockStore& store, bool of_client) : store_(store), of_client_(of_client) {
    inspection_.kind = "run";
  }

  void compare_with(const fs::path& model_folder) {
    if (!inspection_.complete || !is_folder(model_folder))
      return;  // an older model/ may stand beside an unfinished run
    folder_ = model_folder.string();
    try {
      model_.emplace(model_folder);
    } catch (const ModelError& error) {
      inspection_.problems.emplace_back(error.what());
    }
  }

  void read_links() {
    try {
      inspection_.complete = store_.complete();
      if (!is_file(store_.link_file())) return;
      const Provenance provenance = store_.read_provenance();
      inspection_.provenance = provenance.entries;
      inspection_.clients = provenance.clients;
      for (const std::string& warning : provenance.warnings)
        inspection_.provenance.emplace_back("warning", warning);
    } catch (const DataError& error) {
      inspection_.complete = false;
      inspection_.problems.emplace_back(error.what());
    }
  }

  Inspection run() {
    std::map<std::uint32_t, std::uint32_t> newest;  // block -> round
    for (const auto& [round, block] : store_.blocks()) newest[block] = std::max(newest[block], round);
    for (const auto& [block, round] : newest) inspect_block(round, block);
    add_untouched(newest);
    sum_up(inspection_);
    return std::move(inspection_);
  }

 private:
  void inspect_block(std::uint32_t round, std::uint32_t block) {
    try {
      const BlockRecord record = store_.read_block_as_recorded(round, block);
      for (const MatrixRecord& matrix : record.matrices) inspect_matrix(matrix, block);
    } catch (const DataError& error) {
      inspection_.problems.emplace_back(error.what());
    }
  }

  void inspect_matrix(const MatrixRecord& record, std::uint32_t block) {
    Recount counts = recount(record, of_client_);
    InspectedMatrix matrix;
    matrix.name = record.name;
    matrix.block = block;
    matrix.rows = record.matrix.rows;
    matrix.columns = record.matrix.cols;
    matrix.dropped = counts.dropped;
    matrix.zeros = counts.dropped + counts.kept_zeros;
    matrix.target = record.target;
    matrix.votes = std::move(counts.histogram);
    auto& problems = inspection_.problems;
    problems.insert(problems.end(), counts.problems.begin(), counts.problems.end());
    if (model_) compare_matrix(record, counts.sound, matrix);
    inspection_.matrices.push_back(std::move(matrix));
  }

  void compare_matrix(const MatrixRecord& record, bool sound, InspectedMatrix& matrix) {
    if (!model_->contains(record.name)) {
      problem(record.name, "is not there, expected a tensor of the run");
      return;
    }
    const model::TensorView tensor = model_->tensor(record.name);
    const std::vector<std::int64_t>& shape = tensor.entry->shape;
    if (shape.size() != 2 || shape[0] != matrix.rows || shape[1] != matrix.columns) {
      problem(record.name, fmt::format("found shape [{}], expected {} x {}", fmt::join(shape, ", "),
                                       matrix.rows, matrix.columns));
      return;
    }
    const std::int64_t zeros = count_zeros(tensor.dtype(), tensor.bytes);
    if (!record.pruned) {
      matrix.zeros = zeros;  // dense bytes: the record has no counts of its own
      return;
    }
    if (tensor.dtype() != record.matrix.dtype) {
      problem(record.name, fmt::format("found dtype {}, expected {}", name_of(tensor.dtype()),
                                       name_of(record.matrix.dtype)));
      return;
    }
    if (zeros != matrix.zeros)
      problem(record.name, fmt::format("found {} zeros, expected {}", zeros, matrix.zeros));
    const std::int64_t differs = sound ? first_difference(record.matrix, tensor.bytes) : -1;
    if (differs >= 0) {
      problem(record.name, fmt::format("differs from the run's record, first at row {}, column {}",
                                       differs / matrix.columns, differs % matrix.columns));
    }
  }

  void problem(const std::string& tensor, const std::string& what) {
    inspection_.problems.push_back(fmt::format("{}: {}: {}", folder_, tensor, what));
  }

  /// Blocks that the run holds no record of passed unchanged; they belong to the pruned set all the same.
  void add_untouched(const std::map<std::uint32_t, std::uint32_t>& newest) {
    if (!model_) return;
    for (std::int64_t block = 0; block < model_->architecture().blocks; ++block) {
      if (newest.contains(static_cast<std::uint32_t>(block))) continue;
      for (std::size_t i = 0; i < model_->architecture().matrices.size(); ++i) {
        InspectedMatrix matrix = inspect_tensor(*model_, block, i);
        matrix.dropped = 0;
        inspection_.matrices.push_back(std::move(matrix));
      }
    }
  }

  const BlockStore& store_;
  bool of_client_;
  std::optional<model::ModelDirectory> model_;
  std::string folder_;
  Inspection inspection_;
};

// ---------------------------------------------------------------- runs that merge nothing

/// The weights of the pruned set, from any block: all blocks have the same shapes. 0 = nothing to tell it
/// from
std::int64_t prunable_weights(const BlockStore& store, const std::vector<InspectedMatrix>& matrices) {
  if (matrices.empty()) return 0;
  std::int64_t of_a_block = 0;
  for (const InspectedMatrix& matrix : matrices)
    if (matrix.block == matrices.front().block) of_a_block += matrix.rows * matrix.columns;
  return of_a_block * store.read_provenance().blocks;
}

/// One client's own result joins the run's. Blocks that it did not prune are dense in it.
void add_client(const RunPaths& paths, const std::string& name, Inspection& run) {
  const BlockStore store = BlockStore::of_client(paths, name);
  RunInspector inspector(store, /*of_client=*/true);
  inspector.read_links();
  Inspection own = inspector.run();
  const std::string prefix = fmt::format("{}: ", store.link_file().string());
  for (const std::string& problem : own.problems)
    run.problems.push_back(problem.starts_with(paths.dir.string()) ? problem : prefix + problem);
  std::int64_t dropped = 0;
  for (InspectedMatrix& matrix : own.matrices) {
    dropped += matrix.dropped;
    matrix.client = name;
  }
  // A client that was left out has no complete file, and no result of its own.
  if (const std::int64_t weights = own.complete ? prunable_weights(store, own.matrices) : 0; weights > 0)
    run.client_sparsity.emplace_back(name, static_cast<double>(dropped) / static_cast<double>(weights));
  run.matrices.insert(run.matrices.end(), std::make_move_iterator(own.matrices.begin()),
                      std::make_move_iterator(own.matrices.end()));
}

/// What the clients of a run have on their own: aggregation = "none", or nothing is merged yet.
void add_clients(const RunPaths& paths, Inspection& run) {
  for (const std::string& name : run.clients) add_client(paths, name, run);
  sum_up(run);  // of what there is, where no client is through
  if (run.client_sparsity.empty()) {
    if (run.complete)
      run.problems.push_back(
          fmt::format("{}: complete, but holds neither merged blocks nor a complete clients/NAME.h5",
                      paths.dir.string()));
    return;
  }
  run.sparsity = 0;
  for (const auto& [name, sparsity] : run.client_sparsity)
    run.sparsity += sparsity / static_cast<double>(run.client_sparsity.size());
}

Inspection inspect_run(const RunPaths& paths) {
  const BlockStore store = BlockStore::of_run(paths);
  RunInspector inspector(store, /*of_client=*/false);
  inspector.read_links();
  inspector.compare_with(paths.model());
  Inspection run = inspector.run();
  if (run.matrices.empty()) add_clients(paths, run);
  return run;
}

Inspection inspect_client(const fs::path& link_file) {
  const fs::path folder = link_file.parent_path() / link_file.stem();
  const BlockStore store(link_file, folder, folder / "manifest.json");
  RunInspector inspector(store, /*of_client=*/true);
  inspector.read_links();
  return inspector.run();
}

constexpr const char* kExpected = "expected run.h5, clients/NAME.h5, a run directory or a model directory";

}  // namespace

Inspection inspect(const fs::path& path) {
  if (is_folder(path)) {
    const RunPaths paths{path};
    if (is_file(paths.run_file()) || is_file(paths.manifest())) return inspect_run(paths);
    if (is_file(path / "config.json")) return inspect_model(path);
    throw DataError(fmt::format("{}: holds neither run.h5 nor config.json, {}", path.string(), kExpected));
  }
  check<DataError>(is_file(path), fmt::format("{}: no such file or directory, {}", path.string(), kExpected));
  // An absolute path always has a parent folder.
  const fs::path file = fs::absolute(path);
  if (file.filename() == "run.h5") return inspect_run({file.parent_path()});
  if (is_file(file.parent_path() / file.stem() / "manifest.json")) return inspect_client(file);
  throw DataError(fmt::format("{}: is not a run file, {}", path.string(), kExpected));
}

}  // namespace fedspallm::store
