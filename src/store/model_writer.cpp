// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/model_writer.hpp"

#include "fedspallm/base/error.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "directory_swap.hpp"
#include "file_io.hpp"
#include "output_plan.hpp"
#include "packed_checks.hpp"
#include <algorithm>
#include <system_error>
#include <utility>

namespace fedspallm::store {

namespace {

/// Carries out the plan for one file. Copies run inside the kernel; widened pieces come from the mapping.
void write_output_file(const OutputFile& file, const model::MappedFile* mapping,
                       const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / file.name;
  const Descriptor out = create_file(path);
  Descriptor in;
  for (const Segment& segment : file.segments) {
    if (segment.kind == SegmentKind::copy) {
      if (!in) in = open_file(file.source);
      copy_range(in, segment.begin, segment.end, out, segment.offset, file.source, path);
      continue;
    }
    std::int64_t offset = segment.offset;
    for_each_piece(mapping, segment, [&](std::span<const std::byte> bytes) {
      write_at(out, offset, bytes, path);
      offset += static_cast<std::int64_t>(bytes.size());
    });
  }
}

}  // namespace

class ModelWriter::Impl {
 public:
  Impl(const model::ModelDirectory& input, std::filesystem::path directory, bool widen)
      : input_(input), folder_(std::move(directory)), plan_(plan_output(input, widen)) {
    folder_.refuse_to_replace(input.path());
    folder_.start(plan_.bytes());
    // The plan's first files are the shards, in order.
    for (std::size_t i = 0; i < plan_.files.size(); ++i) {
      const bool shard = i < input.shards().size();
      write_output_file(plan_.files[i], shard ? &input.shards()[i].mapping() : nullptr, folder_.part());
    }
  }

  void write_matrix(std::int64_t block, std::size_t matrix, const wire::PackedMatrix& packed) {
    const std::string name = input_.matrix_name(block, matrix);
    check_agrees(name, packed);
    const OutputPlan::Place place = plan_.tensors.at(name);
    const OutputFile& file = plan_.files[place.file];
    const Segment& segment = file.segments[place.segment];
    const std::filesystem::path path = folder_.part() / file.name;
    const Descriptor out(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    check<ResourceError>(static_cast<bool>(out), errno_message(path, "cannot be opened for writing"));
    const auto width = static_cast<std::int64_t>(size_of(packed.dtype));
    std::vector<std::byte> dense;
    std::int64_t value = 0;
    for (std::int64_t begin = 0; begin < packed.size(); begin += kSliceWeights) {
      const std::int64_t end = std::min(begin + kSliceWeights, packed.size());
      const wire::PackedMatrix part = wire::slice(packed, begin, end, value);
      dense.resize(static_cast<std::size_t>((end - begin) * width));
      wire::unpack_stored(part, dense);
      write_at(out, segment.offset + begin * width, dense, path);
    }
  }

  void finish() {
    for (const OutputFile& file : plan_.files) sync_file(folder_.part() / file.name);
    folder_.publish();
  }

 private:
  void check_agrees(const std::string& name, const wire::PackedMatrix& packed) const {
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

void ModelWriter::write_matrix(std::int64_t block, std::size_t matrix, const wire::PackedMatrix& packed) {
  impl_->write_matrix(block, matrix, packed);
}

void ModelWriter::finish() {
  impl_->finish();
}

}  // namespace fedspallm::store
