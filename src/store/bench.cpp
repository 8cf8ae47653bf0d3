// SPDX-License-Identifier: Apache-2.0
// Ours and the plain file take turns, so that whatever else the disk does falls on both.
#include "fedspallm/store/bench.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/model_writer.hpp"
#include "fedspallm/store/run_store.hpp"
#include "fedspallm/store/state_store.hpp"

#include "bench_inputs.hpp"
#include "file_io.hpp"
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>

namespace fedspallm::store {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Made below `parent`; removed with all that is in it.
class WorkFolder {
 public:
  explicit WorkFolder(const fs::path& parent) : path_((parent / "fedspallm-bench-XXXXXX").string()) {
    check<ResourceError>(::mkdtemp(path_.data()) != nullptr,
                         errno_message(parent, "making a folder for the benchmark"));
  }
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  [[nodiscard]] fs::path path() const { return path_; }

 private:
  std::string path_;
};

double seconds_of(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::int64_t size_of_tree(const fs::path& folder) {
  std::int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) bytes += static_cast<std::int64_t>(entry.file_size());
  return bytes;
}

enum class Plain { write_and_sync, write, read };

constexpr std::array kPlainNames = {"write + fsync", "write", "read"};

class Bench {
 public:
  Bench(const fs::path& folder, const CheckpointBenchOptions& options) : options_(options), folder_(folder) {}

  std::vector<CheckpointBenchRow> run() {
    block_file();
    client_state();
    output_model();
    return rows_;
  }

 private:
  /// @param work  called with the number of the repeat
  void time(const std::string& name, const std::string& shape, std::int64_t bytes, Plain plain,
            const std::function<void(int)>& work) {
    const std::vector<std::byte> data = random_bytes(static_cast<std::size_t>(bytes));
    std::vector<double> ours, limits;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      limits.push_back(plain_seconds(plain, data));
      ours.push_back(seconds_of([&] { work(repeat); }));
    }
    rows_.push_back({.name = name,
                     .shape = shape,
                     .bytes = bytes,
                     .seconds = median(ours),
                     .limit = kPlainNames[static_cast<std::size_t>(plain)],
                     .limit_seconds = median(limits)});
  }

  [[nodiscard]] double plain_seconds(Plain plain, std::span<const std::byte> data) const {
    const fs::path path = folder_.path() / "plain";
    const auto write = [&] {
      const Descriptor file = create_file(path);
      write_at(file, 0, data, path);
      if (plain == Plain::write_and_sync) sync(file, path);
    };
    double seconds = seconds_of(write);
    if (plain == Plain::read) {
      std::vector<char> bytes(data.size());
      std::ifstream file(path, std::ios::binary);
      seconds = seconds_of([&] { file.read(bytes.data(), static_cast<std::streamsize>(bytes.size())); });
      check<ResourceError>(file.good(), errno_message(path, "reading"));
    }
    remove_path(path);
    return seconds;
  }

  void block_file() {
    const RunPaths paths{folder_.path() / "run"};
    make_folders(paths.dir);
    BlockStore store = BlockStore::of_run(paths);
    BlockRecord record = bench_block(options_);
    store.write_block(record);
    const std::int64_t bytes = size_of_tree(paths.dir);
    time("block file, manifest",
         fmt::format("7 matrices, {} weights, {} clients' votes", weights_of_block(), options_.clients),
         bytes, Plain::write_and_sync, [&](int repeat) {
           record.block = static_cast<std::uint32_t>(repeat + 1);
           store.write_block(record);
         });
  }

  void client_state() {
    const std::int64_t rows = options_.tokens, columns = options_.hidden;
    const std::vector<float> hidden(static_cast<std::size_t>(rows * columns), 0.25F);
    constexpr std::uint64_t kRun = 1;
    StateStore states(folder_.path() / "state", kRun);
    const auto write = [&](int repeat) {
      StateStore::Writing writing = states.begin({1, static_cast<std::uint32_t>(repeat)}, rows, columns);
      writing.append(hidden);
      writing.close();
      return writing;
    };
    write(0).publish();
    const std::int64_t bytes = size_of_tree(folder_.path() / "state");
    const std::string shape = fmt::format("{} x {}", rows, columns);
    // A client waits for the first of them only; another thread makes the state durable.
    time("client state, written", shape, bytes, Plain::write, [&](int repeat) { write(repeat); });
    time("client state, durable", shape, bytes, Plain::write_and_sync,
         [&](int repeat) { write(repeat).publish(); });
    constexpr std::int64_t kPieceRows = 1024;
    float sum = 0;
    time("client state, read", shape, bytes, Plain::read, [&](int repeat) {
      states.read({1, static_cast<std::uint32_t>(repeat)}, rows, columns, kPieceRows,
                  [&](std::int64_t, std::span<const float> values) { sum += values.front(); });
    });
    require(sum > 0, "bench_checkpoint: the state was read");
  }

  void output_model() {
    const fs::path input = folder_.path() / "input";
    write_bench_model(input, options_);
    const model::ModelDirectory dense(input);
    BlockRecord record = bench_block(options_);
    for (MatrixRecord& matrix : record.matrices) matrix.votes.clear();
    const BlockSource blocks = [&](std::int64_t block) {
      for (std::size_t i = 0; i < record.matrices.size(); ++i)
        record.matrices[i].name = dense.matrix_name(block, i);
      return record;
    };
    const fs::path output = folder_.path() / "output";
    time("output model", fmt::format("{} blocks, vocabulary {}", options_.model_blocks, options_.vocabulary),
         size_of_tree(input), Plain::write_and_sync,
         [&](int repeat) { write_model(dense, output / fmt::format("{}", repeat), false, blocks); });
  }

  [[nodiscard]] std::int64_t weights_of_block() const {
    std::int64_t weights = 0;
    for (const BenchMatrix& matrix : bench_matrices(options_)) weights += matrix.rows * matrix.cols;
    return weights;
  }

  CheckpointBenchOptions options_;
  WorkFolder folder_;
  std::vector<CheckpointBenchRow> rows_;
};

}  // namespace

std::vector<CheckpointBenchRow> bench_checkpoint(const fs::path& folder,
                                                 const CheckpointBenchOptions& options) {
  const std::array sizes = {options.hidden,   options.intermediate, options.heads,        options.kv_heads,
                            options.head_dim, options.tokens,       options.model_blocks, options.vocabulary};
  require(options.repeats >= 1 && options.clients >= 1 &&
              std::all_of(sizes.begin(), sizes.end(), [](std::int64_t size) { return size >= 1; }),
          "bench_checkpoint: repeats, clients and sizes >= 1");
  return Bench(folder, options).run();
}

}  // namespace fedspallm::store
