// SPDX-License-Identifier: Apache-2.0
#include "block_file.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/data/hdf5.hpp"

#include "packed_checks.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace fedspallm::store {

namespace {

namespace hdf5 = data::hdf5;

constexpr const char* kKind = "fedspallm block";
constexpr std::array kDTypes = {DType::f32, DType::f16, DType::bf16};

// ---------------------------------------------------------------- writing

template <class Narrow>
void write_votes_as(const hdf5::Group& group, const MatrixRecord& record) {
  std::vector<Narrow> narrow(record.votes.size());
  std::transform(record.votes.begin(), record.votes.end(), narrow.begin(),
                 [](std::uint32_t votes) { return static_cast<Narrow>(votes); });
  group.write_2d<Narrow>("votes", {record.matrix.rows, record.matrix.cols}, narrow);
}

/// In the narrowest type that holds every count: votes are most of the file.
void write_votes(const hdf5::Group& group, const MatrixRecord& record) {
  const std::uint32_t largest =
      record.votes.empty() ? 0 : *std::max_element(record.votes.begin(), record.votes.end());
  const std::size_t clients =
      std::max<std::size_t>(largest, record.histogram.empty() ? 0 : record.histogram.size() - 1);
  if (clients <= std::numeric_limits<std::uint8_t>::max()) return write_votes_as<std::uint8_t>(group, record);
  if (clients <= std::numeric_limits<std::uint16_t>::max())
    return write_votes_as<std::uint16_t>(group, record);
  group.write_2d<std::uint32_t>("votes", {record.matrix.rows, record.matrix.cols}, record.votes);
}

/// The bytes are already the elements; HDF5 takes them by address, so that nothing is copied. (A vector's
/// storage is aligned for any of these types.)
template <class T>
void write_values_as(const hdf5::Group& group, const wire::PackedMatrix& matrix) {
  group.write("values",
              std::span(reinterpret_cast<const T*>(matrix.values.data()), matrix.values.size() / sizeof(T)));
}

void write_values(const hdf5::Group& group, const wire::PackedMatrix& matrix) {
  if (matrix.dtype == DType::f32) return write_values_as<float>(group, matrix);
  write_values_as<std::uint16_t>(group, matrix);
}

template <class T, class Get>
void write_column(const hdf5::Group& group, const std::string& name, const std::vector<ClientPart>& parts,
                  Get get) {
  std::vector<T> column(parts.size());
  std::transform(parts.begin(), parts.end(), column.begin(), get);
  group.write(name, column);
}

void write_clients(const hdf5::Group& parent, const std::vector<ClientPart>& parts) {
  const hdf5::Group group = parent.create_group("clients");
  write_column<std::uint32_t>(group, "client", parts, [](const ClientPart& part) { return part.client; });
  write_column<std::int64_t>(group, "kept", parts, [](const ClientPart& part) { return part.kept; });
  write_column<double>(group, "error", parts, [](const ClientPart& part) { return part.report.error; });
  write_column<double>(group, "seconds", parts, [](const ClientPart& part) { return part.report.seconds; });
  write_column<float>(group, "damping", parts, [](const ClientPart& part) { return part.report.damping; });
  write_column<std::int32_t>(group, "damping_steps", parts,
                             [](const ClientPart& part) { return part.report.damping_steps; });
  write_column<std::int64_t>(group, "dead_columns", parts,
                             [](const ClientPart& part) { return part.report.dead_columns; });
  write_column<std::int64_t>(group, "kept_zeros", parts,
                             [](const ClientPart& part) { return part.report.kept_zeros; });
}

void require_sound(const MatrixRecord& record) {
  require(!record.name.empty(), "a matrix record has a tensor name");
  if (record.pruned) {
    const std::string fault = packing_fault(record.matrix);
    require(fault.empty(), fmt::format("{}: a packed matrix agrees with its counts: {}", record.name, fault));
  } else {
    require(record.matrix.bits.empty() && record.matrix.values.empty(),
            "a matrix that nobody pruned has no mask");
  }
  require(record.votes.empty() || static_cast<std::int64_t>(record.votes.size()) == record.matrix.size(),
          "votes are one per weight, or none");
}

/// HDF5 names have no '/'; the attribute `name` keeps the tensor's own.
std::string group_name(std::string name) {
  std::replace(name.begin(), name.end(), '/', '|');
  return name;
}

void write_matrix(const hdf5::Group& root, const MatrixRecord& record, std::size_t index) {
  require_sound(record);
  const hdf5::Group group = root.create_group(group_name(record.name));
  group.write_integer("format_version", kFormatVersion);
  group.write_string("name", record.name);
  group.write_integer("index", static_cast<std::int64_t>(index));
  group.write_integer("pruned", record.pruned ? 1 : 0);
  group.write_integer("rows", record.matrix.rows);
  group.write_integer("cols", record.matrix.cols);
  group.write_string("dtype", std::string(name_of(record.matrix.dtype)));
  group.write_integer("kept", record.matrix.kept);
  group.write_integer("target", record.target);
  group.write_integer("expanded", record.expanded);
  group.write_integer("common_zeros", record.common_zeros);
  group.write_integer("kept_zeros", record.kept_zeros);
  group.write_integer("N", record.keep);
  group.write_integer("M", record.group);
  if (record.pruned) {
    group.write("mask", bytes_of_mask(record.matrix));
    write_values(group, record.matrix);
  }
  if (!record.votes.empty()) write_votes(group, record);
  if (!record.histogram.empty()) group.write("histogram", record.histogram);
  write_clients(group, record.clients);
}

// ---------------------------------------------------------------- reading

[[noreturn]] void fail(const hdf5::Group& group, const std::string& what) {
  throw DataError(fmt::format("{}: {}: {}", group.file(), group.path(), what));
}

std::int64_t read_count(const hdf5::Group& group, const char* name, std::int64_t smallest,
                        std::int64_t largest) {
  const std::int64_t value = group.read_integer(name);
  if (value < smallest || value > largest)
    fail(group, fmt::format("attribute '{}' is {}, expected {} to {}", name, value, smallest, largest));
  return value;
}

DType read_dtype(const hdf5::Group& group) {
  const std::string name = group.read_string("dtype");
  for (const DType dtype : kDTypes)
    if (name == name_of(dtype)) return dtype;
  fail(group, fmt::format("attribute 'dtype' is '{}', expected float32, float16 or bfloat16", name));
}

template <class T>
std::vector<std::byte> read_values_as(const hdf5::Group& group) {
  const std::vector<T> values = group.read<T>("values");
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <class T>
std::vector<std::uint32_t> read_votes_as(const hdf5::Group& group, std::int64_t rows, std::int64_t cols) {
  hdf5::Matrix2d shape;
  std::vector<T> votes = group.read_2d<T>("votes", shape);
  if (shape.rows != rows || shape.cols != cols)
    fail(group, fmt::format("'votes' is {} x {}, expected {} x {}", shape.rows, shape.cols, rows, cols));
  if constexpr (std::is_same_v<T, std::uint32_t>)
    return votes;
  else
    return {votes.begin(), votes.end()};
}

std::vector<std::uint32_t> read_votes(const hdf5::Group& group, std::int64_t rows, std::int64_t cols) {
  if (!group.contains("votes")) return {};
  const std::string type = group.describe("votes").type;
  if (type == "uint8") return read_votes_as<std::uint8_t>(group, rows, cols);
  if (type == "uint16") return read_votes_as<std::uint16_t>(group, rows, cols);
  if (type == "uint32") return read_votes_as<std::uint32_t>(group, rows, cols);
  fail(group, fmt::format("'votes' has type {}, expected uint8, uint16 or uint32", type));
}

template <class T, class Set>
void read_column(const hdf5::Group& group, const std::string& name, std::vector<ClientPart>& parts, Set set) {
  const std::vector<T> column = group.read<T>(name);
  if (column.size() != parts.size())
    fail(group, fmt::format("'{}' holds {} values, expected {}", name, column.size(), parts.size()));
  for (std::size_t i = 0; i < parts.size(); ++i) set(parts[i], column[i]);
}

/// @param size  weights of the matrix
std::vector<ClientPart> read_clients(const hdf5::Group& parent, std::int64_t size) {
  const hdf5::Group group = parent.open_group("clients");
  std::vector<ClientPart> parts(group.read<std::uint32_t>("client").size());
  read_column<std::uint32_t>(group, "client", parts,
                             [](ClientPart& part, std::uint32_t v) { part.client = v; });
  read_column<std::int64_t>(group, "kept", parts, [](ClientPart& part, std::int64_t v) { part.kept = v; });
  read_column<double>(group, "error", parts, [](ClientPart& part, double v) { part.report.error = v; });
  read_column<double>(group, "seconds", parts, [](ClientPart& part, double v) { part.report.seconds = v; });
  read_column<float>(group, "damping", parts, [](ClientPart& part, float v) { part.report.damping = v; });
  read_column<std::int32_t>(group, "damping_steps", parts,
                            [](ClientPart& part, std::int32_t v) { part.report.damping_steps = v; });
  read_column<std::int64_t>(group, "dead_columns", parts,
                            [](ClientPart& part, std::int64_t v) { part.report.dead_columns = v; });
  read_column<std::int64_t>(group, "kept_zeros", parts,
                            [](ClientPart& part, std::int64_t v) { part.report.kept_zeros = v; });
  for (const ClientPart& part : parts)
    if (part.kept < 0 || part.kept > size)
      fail(group, fmt::format("'kept' of client {} is {}, expected 0 to {}", part.client, part.kept, size));
  return parts;
}

/// @param size  rows * cols
void read_mask_and_values(const hdf5::Group& group, std::int64_t size, wire::PackedMatrix& matrix) {
  const std::vector<std::byte> mask = group.read<std::byte>("mask");
  if (static_cast<std::int64_t>(mask.size()) != mask_bytes(size)) {
    fail(group, fmt::format("'mask' has {} bytes, expected {} for {} x {}", mask.size(), mask_bytes(size),
                            matrix.rows, matrix.cols));
  }
  matrix.bits = words_of_mask(mask, size);
  matrix.values =
      matrix.dtype == DType::f32 ? read_values_as<float>(group) : read_values_as<std::uint16_t>(group);
}

MatrixRecord read_matrix(const hdf5::Group& group, Votes votes) {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
  read_count(group, "format_version", kFormatVersion, kFormatVersion);
  MatrixRecord record;
  record.name = group.read_string("name");
  record.pruned = read_count(group, "pruned", 0, 1) == 1;
  record.matrix.rows = read_count(group, "rows", 0, kLargest);
  record.matrix.cols = read_count(group, "cols", 0, kLargest);
  record.matrix.dtype = read_dtype(group);
  record.matrix.kept = read_count(group, "kept", 0, kLargest);
  const std::int64_t size =
      checked_size(record.matrix.rows, record.matrix.cols, fmt::format("{}: {}", group.file(), group.path()));
  record.target = read_count(group, "target", -1, size);
  record.expanded = read_count(group, "expanded", 0, size);
  record.common_zeros = read_count(group, "common_zeros", 0, size);
  record.kept_zeros = read_count(group, "kept_zeros", 0, size);
  record.keep = static_cast<int>(read_count(group, "N", 0, std::numeric_limits<int>::max()));
  record.group = static_cast<int>(read_count(group, "M", 0, std::numeric_limits<int>::max()));
  if (record.pruned) read_mask_and_values(group, size, record.matrix);
  if (votes == Votes::read) record.votes = read_votes(group, record.matrix.rows, record.matrix.cols);
  if (group.contains("histogram")) record.histogram = group.read<std::int64_t>("histogram");
  record.clients = read_clients(group, size);
  return record;
}

}  // namespace

void write_block_file(const std::filesystem::path& path, const BlockRecord& record) {
  hdf5::File file = hdf5::File::create(path);
  const hdf5::Group& root = file.root();
  root.write_integer("format_version", kFormatVersion);
  root.write_string("kind", kKind);
  root.write_integer("round", record.round);
  root.write_integer("block", record.block);
  root.write_integer("matrices", static_cast<std::int64_t>(record.matrices.size()));
  for (std::size_t i = 0; i < record.matrices.size(); ++i) write_matrix(root, record.matrices[i], i);
  file.close();
}

BlockRecord read_block_file(const std::filesystem::path& path, Votes votes) {
  const hdf5::File file = hdf5::File::open(path);
  const hdf5::Group& root = file.root();
  read_count(root, "format_version", kFormatVersion, kFormatVersion);
  if (root.read_string("kind") != kKind) fail(root, fmt::format("is not a {} file", kKind));
  BlockRecord record;
  record.round =
      static_cast<std::uint32_t>(read_count(root, "round", 0, std::numeric_limits<std::uint32_t>::max()));
  record.block =
      static_cast<std::uint32_t>(read_count(root, "block", 0, std::numeric_limits<std::uint32_t>::max()));
  const std::vector<std::string> names = root.names();
  const auto count = static_cast<std::int64_t>(names.size());
  if (root.read_integer("matrices") != count)
    fail(root,
         fmt::format("holds {} matrices, expected {} as recorded", count, root.read_integer("matrices")));
  record.matrices.resize(names.size());
  std::vector<bool> filled(names.size(), false);
  for (const std::string& name : names) {
    const hdf5::Group group = root.open_group(name);
    const auto index = static_cast<std::size_t>(read_count(group, "index", 0, count - 1));
    if (filled[index]) fail(group, fmt::format("index {} occurs twice", index));
    filled[index] = true;
    record.matrices[index] = read_matrix(group, votes);
  }
  return record;
}

}  // namespace fedspallm::store
