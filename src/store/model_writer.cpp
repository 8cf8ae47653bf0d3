// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/model_writer.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include "directory_swap.hpp"
#include "file_io.hpp"
#include "output_plan.hpp"
#include "packed_checks.hpp"
#include <algorithm>
#include <map>
#include <system_error>
#include <utility>
#include <vector>

namespace fedspallm::store {

namespace {

/// One file of the plan, being written, by several threads at once where segments do not overlap. Copies run
/// inside the kernel; widened pieces come from the mapping.
class PlannedFile {
 public:
  PlannedFile(const OutputFile& file, const model::MappedFile* mapping, const std::filesystem::path& folder)
      : file_(file), mapping_(mapping), path_(folder / file.name), out_(create_file(path_)) {
    for (const Segment& segment : file.segments)
      if (segment.kind == SegmentKind::copy && !in_) in_ = open_file(file.source);
  }

  /// As in the input.
  void copy(const Segment& segment) {
    if (segment.kind == SegmentKind::copy) {
      copy_range(in_, segment.begin, segment.end, out_, segment.offset, file_.source, path_);
      return;
    }
    std::int64_t offset = segment.offset;
    for_each_piece(mapping_, segment, [&](std::span<const std::byte> bytes) {
      write_at(out_, offset, bytes, path_);
      offset += static_cast<std::int64_t>(bytes.size());
    });
  }

  void unpack(const Segment& segment, const wire::PackedMatrix& packed) {
    const auto width = static_cast<std::int64_t>(size_of(packed.dtype));
    std::vector<std::byte> dense;
    std::int64_t value = 0;
    for (std::int64_t begin = 0; begin < packed.size(); begin += kSliceWeights) {
      const std::int64_t end = std::min(begin + kSliceWeights, packed.size());
      const wire::PackedMatrix part = wire::slice(packed, begin, end, value);
      dense.resize(static_cast<std::size_t>((end - begin) * width));
      wire::unpack_stored(part, dense);
      write_at(out_, segment.offset + begin * width, dense, path_);
    }
  }

  void make_durable() const { sync(out_, path_); }

 private:
  const OutputFile& file_;
  const model::MappedFile* mapping_;
  std::filesystem::path path_;
  Descriptor out_, in_;
};

const wire::PackedMatrix* find_matrix(const std::optional<BlockRecord>& record, const std::string& name) {
  if (!record) return nullptr;
  for (const MatrixRecord& entry : record->matrices)
    if (entry.pruned && entry.name == name) return &entry.matrix;
  return nullptr;
}

}  // namespace

class ModelWriter::Impl {
 public:
  Impl(const model::ModelDirectory& input, std::filesystem::path directory, bool widen)
      : input_(input), folder_(std::move(directory)), plan_(plan_output(input, widen)) {}

  void start() {
    folder_.refuse_to_replace(input_.path());
    folder_.start(plan_.bytes());
    for (std::size_t i = shards(); i < plan_.files.size(); ++i) {
      PlannedFile file(plan_.files[i], nullptr, folder_.part());
      for (const Segment& segment : plan_.files[i].segments) file.copy(segment);
      file.make_durable();
    }
  }

  /// The plan's first files are the shards, in order.
  [[nodiscard]] std::size_t shards() const { return input_.shards().size(); }

  void write_shard(std::size_t shard, const BlockSource& blocks, int threads) const {
    require(shard < shards(), "ModelWriter::write_shard: there is such a shard");
    const OutputFile& planned = plan_.files[shard];
    PlannedFile file(planned, &input_.shards()[shard].mapping(), folder_.part());
    std::map<std::int64_t, std::vector<const Segment*>> matrices;  // by block
    for (const Segment& segment : planned.segments) {
      if (segment.matrix)
        matrices[segment.matrix->block].push_back(&segment);
      else
        file.copy(segment);
    }
    const std::vector<std::pair<std::int64_t, std::vector<const Segment*>>> units(matrices.begin(),
                                                                                  matrices.end());
    ThreadPool pool(std::clamp<int>(threads, 1, std::max<int>(1, static_cast<int>(units.size()))));
    pool.run(std::ssize(units), [&](std::int64_t unit, int) {
      const auto& [block, segments] = units[static_cast<std::size_t>(unit)];
      write_block(file, blocks(block), segments);
    });
    file.make_durable();
  }

  void finish() {
    for (const OutputFile& file : plan_.files) {
      const std::filesystem::path path = folder_.part() / file.name;
      std::error_code error;
      const std::uintmax_t bytes = std::filesystem::file_size(path, error);
      check<ResourceError>(
          !error && bytes == static_cast<std::uintmax_t>(file.bytes),
          fmt::format("{}: {}, expected {} bytes; the folder must be one and the same for "
                      "all processes that write into it",
                      path.string(), error ? error.message() : fmt::format("found {} bytes", bytes),
                      file.bytes));
    }
    folder_.publish();
  }

 private:
  void write_block(PlannedFile& file, const std::optional<BlockRecord>& record,
                   const std::vector<const Segment*>& segments) const {
    for (const Segment* segment : segments) {
      if (const wire::PackedMatrix* packed = find_matrix(record, segment->tensor)) {
        require_agrees(segment->tensor, *packed);
        file.unpack(*segment, *packed);
      } else {
        file.copy(*segment);
      }
    }
  }

  void require_agrees(const std::string& name, const wire::PackedMatrix& packed) const {
    const model::TensorView tensor = input_.tensor(name);
    const std::vector<std::int64_t>& shape = tensor.entry->shape;
    require(shape.size() == 2 && shape[0] == packed.rows && shape[1] == packed.cols,
            fmt::format("{}: the matrix has the input's shape", name));
    const DType expected = plan_.widen ? DType::f32 : tensor.dtype();
    require(packed.dtype == expected,
            fmt::format("{}: the matrix has dtype {}, as the output", name, name_of(expected)));
    const std::string fault = packing_fault(packed);
    require(fault.empty(), fmt::format("{}: a packed matrix agrees with its counts: {}", name, fault));
  }

  const model::ModelDirectory& input_;
  DirectorySwap folder_;
  OutputPlan plan_;
};

ModelWriter::ModelWriter(const model::ModelDirectory& input, std::filesystem::path directory, bool widen)
    : impl_(std::make_unique<Impl>(input, std::move(directory), widen)) {}

ModelWriter::~ModelWriter() = default;

void ModelWriter::start() {
  impl_->start();
}

std::size_t ModelWriter::shards() const {
  return impl_->shards();
}

void ModelWriter::write_shard(std::size_t shard, const BlockSource& blocks, int threads) const {
  require(threads >= 1, "ModelWriter::write_shard: threads >= 1");
  impl_->write_shard(shard, blocks, threads);
}

void ModelWriter::finish() {
  impl_->finish();
}

void write_model(const model::ModelDirectory& input, const std::filesystem::path& directory, bool widen,
                 const BlockSource& blocks, int threads) {
  ModelWriter writer(input, directory, widen);
  writer.start();
  for (std::size_t shard = 0; shard < writer.shards(); ++shard) writer.write_shard(shard, blocks, threads);
  writer.finish();
}

}  // namespace fedspallm::store
