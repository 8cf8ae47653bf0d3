// SPDX-License-Identifier: Apache-2.0
// Datasets: numbers in one or two dimensions, and texts.
#include "fedspallm/base/error.hpp"
#include "fedspallm/data/hdf5.hpp"

#include "hdf5_calls.hpp"
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::data::hdf5 {

namespace {

// The built-in filters cannot shrink data further than deflate's limit of about 1032 : 1 (and nbit's 64 : 1).
constexpr std::uint64_t kLargestCompression = 1100;

/// A filter of the dataset that is not read here, or H5Z_FILTER_NONE. HDF5 1.10.8 trusts the parameters that
/// nbit and scaleoffset have in the file, and looks for plug-ins on the disk for those it does not know.
H5Z_filter_t odd_filter(hid_t properties, int filters) {
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0;
    unsigned settings = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter =
        H5Pget_filter2(properties, static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, &settings);
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32)
      return filter;
  }
  return H5Z_FILTER_NONE;
}

/// How many chunks a dataset of this shape has; nothing where the file says no sensible size of one. @pre the
/// layout is chunked
std::optional<std::uint64_t> chunks_of(hid_t properties, const std::vector<std::int64_t>& shape) {
  std::vector<hsize_t> chunk(shape.size(), 1);
  const auto rank = static_cast<int>(chunk.size());
  if (H5Pget_chunk(properties, rank, chunk.data()) != rank) return std::nullopt;
  std::uint64_t count = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (chunk[i] == 0) return std::nullopt;
    const auto extent = static_cast<hsize_t>(shape[i]);
    const hsize_t along = extent / chunk[i] + (extent % chunk[i] != 0 ? 1 : 0);
    if (__builtin_mul_overflow(count, along, &count)) return std::numeric_limits<std::uint64_t>::max();
  }
  return count;
}

}  // namespace

void Group::require_size(Matrix2d shape, std::size_t size) {
  require(shape.rows >= 0 && shape.cols >= 0, "rows and columns are not negative");
  std::int64_t product = 0;
  const bool overflow = __builtin_mul_overflow(shape.rows, shape.cols, &product);
  require(!overflow && static_cast<std::size_t>(product) == size, "rows * columns is the number of values");
}

Handle Group::open_dataset(const std::string& name) const {
  const Session session;
  const std::string object = where(name);
  if (!contains(name)) fail(path_, fmt::format("no dataset '{}' in it", name));
  return {checked(H5Dopen2(handle_.get(), name.c_str(), H5P_DEFAULT), object, "open the dataset"), H5Dclose};
}

std::vector<std::int64_t> Group::shape_of(std::int64_t dataset, const std::string& object) const {
  const Handle space(checked(H5Dget_space(dataset), object, "read its shape"), H5Sclose);
  if (H5Sget_simple_extent_type(space.get()) == H5S_NULL) fail(object, "is empty (a null dataspace)");
  const int rank =
      static_cast<int>(checked(H5Sget_simple_extent_ndims(space.get()), object, "read its shape"));
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  if (rank > 0)
    checked(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), object, "read its shape");
  std::vector<std::int64_t> shape;
  for (const hsize_t extent : extents) {
    if (extent > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max()))
      fail(object, fmt::format("has an extent of {}, expected less than 2^63", extent));
    shape.push_back(static_cast<std::int64_t>(extent));
  }
  return shape;
}

DatasetInfo Group::describe(const std::string& name) const {
  const Session session;
  const Handle dataset = open_dataset(name);
  const std::string object = where(name);
  const Handle type(checked(H5Dget_type(dataset.get()), object, "read its type"), H5Tclose);
  return {describe_type(type.get()), shape_of(dataset.get(), object)};
}

void Group::check_storage(std::int64_t dataset, const std::string& object, std::uint64_t bytes) const {
  const Handle properties(checked(H5Dget_create_plist(dataset), object, "read its layout"), H5Pclose);
  const auto layout = H5Pget_layout(properties.get());
  if (layout == H5D_VIRTUAL) fail(object, "is a virtual dataset, expected one that is stored in this file");
  if (checked(H5Pget_external_count(properties.get()), object, "read its layout") > 0)
    fail(object, "keeps its data in another file, expected one that is stored in this file");
  const int filters =
      static_cast<int>(checked(H5Pget_nfilters(properties.get()), object, "read its filters"));
  if (const H5Z_filter_t filter = odd_filter(properties.get(), filters); filter != H5Z_FILTER_NONE)
    fail(object, fmt::format("uses the HDF5 filter {}, expected gzip, shuffle or fletcher32", filter));
  if (layout == H5D_CHUNKED) {
    // A chunk that was never written reads as zeros.
    const Handle space(checked(H5Dget_space(dataset), object, "read its shape"), H5Sclose);
    hsize_t found = 0;
    checked(H5Dget_num_chunks(dataset, space.get(), &found), object, "count its chunks");
    const std::optional<std::uint64_t> needed = chunks_of(properties.get(), shape_of(dataset, object));
    if (!needed) fail(object, "its chunks have no size");
    if (found != *needed)
      fail(object, fmt::format("its shape needs {} chunks, but the file stores {}", *needed, found));
  }
  const std::uint64_t stored = H5Dget_storage_size(dataset);
  const bool enough = filters > 0 ? bytes / kLargestCompression <= stored : bytes <= stored;
  if (!enough) fail(object, fmt::format("its shape needs {} bytes, but the file stores {}", bytes, stored));
}

std::size_t Group::checked_size(const std::string& name, Scalar expected, int rank,
                                Matrix2d* shape_out) const {
  const Session session;
  const Handle dataset = open_dataset(name);
  const std::string object = where(name);
  const Handle type(checked(H5Dget_type(dataset.get()), object, "read its type"), H5Tclose);
  if (!has_type(type.get(), expected))
    fail(object, fmt::format("has type {}, expected {}", describe_type(type.get()), hdf5::name_of(expected)));
  const std::vector<std::int64_t> shape = shape_of(dataset.get(), object);
  const bool rank_fits =
      rank == 0 ? shape.size() == 1 || shape.size() == 2 : shape.size() == static_cast<std::size_t>(rank);
  if (!rank_fits) {
    fail(object, fmt::format("has shape {}, expected {} dimension{}", describe_shape(shape),
                             rank == 0 ? "1 or 2" : std::to_string(rank), rank == 1 ? "" : "s"));
  }
  std::int64_t bytes = static_cast<std::int64_t>(hdf5::size_of(expected));
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes))
      fail(object, fmt::format("has shape {}, which is more than 2^63 bytes", describe_shape(shape)));
  }
  check_storage(dataset.get(), object, static_cast<std::uint64_t>(bytes));
  if (shape_out != nullptr && shape.size() == 2) *shape_out = {shape[0], shape[1]};
  return static_cast<std::size_t>(bytes) / hdf5::size_of(expected);
}

void Group::read_raw(const std::string& name, Scalar type, void* values, std::size_t count) const {
  const Session session;
  const std::size_t found = checked_size(name, type, 0);
  const std::string object = where(name);
  if (found != count) fail(object, fmt::format("holds {} values, expected {}", found, count));
  if (count == 0) return;
  const Handle dataset = open_dataset(name);
  checked(H5Dread(dataset.get(), native_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, values), object,
          "read the data");
}

void Group::write_raw(const std::string& name, Scalar type, const void* values,
                      const std::vector<std::int64_t>& shape) const {
  const Session session;
  const std::string object = where(name);
  std::vector<hsize_t> extents;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    extents.push_back(static_cast<hsize_t>(extent));
    empty = empty || extent == 0;
  }
  const Handle space(checked(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
                             object, "make its shape"),
                     H5Sclose);
  const Handle properties(checked(H5Pcreate(H5P_DATASET_CREATE), object, "make its properties"), H5Pclose);
  checked(H5Pset_obj_track_times(properties.get(), false), object, "make its properties");
  const Handle dataset(checked(H5Dcreate2(handle_.get(), name.c_str(), file_type(type), space.get(),
                                          H5P_DEFAULT, properties.get(), H5P_DEFAULT),
                               object, "create the dataset"),
                       H5Dclose);
  if (empty) return;
  checked(H5Dwrite(dataset.get(), native_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, values), object,
          "write the data");
}

std::string Group::read_text(const std::string& name) const {
  const Session session;
  const Handle dataset = open_dataset(name);
  const std::string object = where(name);
  const Handle type(checked(H5Dget_type(dataset.get()), object, "read its type"), H5Tclose);
  const auto shape = shape_of(dataset.get(), object);
  if (H5Tget_class(type.get()) != H5T_STRING || !shape.empty() || H5Tis_variable_str(type.get()) != 0) {
    fail(object, fmt::format("is a {} of shape {}, expected one string of fixed length",
                             describe_type(type.get()), describe_shape(shape)));
  }
  const std::size_t size = H5Tget_size(type.get());
  check_storage(dataset.get(), object, size);
  std::string text(size, '\0');
  checked(H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()), object,
          "read the text");
  text.resize(text.find('\0') == std::string::npos ? size : text.find('\0'));
  return text;
}

void Group::write_text(const std::string& name, const std::string& text) const {
  const Session session;
  require(text.find('\0') == std::string::npos, "a text has no zero byte");
  const std::string object = where(name);
  const Handle type(checked(H5Tcopy(H5T_C_S1), object, "make a string type"), H5Tclose);
  checked(H5Tset_cset(type.get(), H5T_CSET_UTF8), object, "make a string type");
  checked(H5Tset_size(type.get(), text.size() + 1), object, "make a string type");
  const Handle space(checked(H5Screate(H5S_SCALAR), object, "make its shape"), H5Sclose);
  const Handle properties(checked(H5Pcreate(H5P_DATASET_CREATE), object, "make its properties"), H5Pclose);
  checked(H5Pset_obj_track_times(properties.get(), false), object, "make its properties");
  const Handle dataset(checked(H5Dcreate2(handle_.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT,
                                          properties.get(), H5P_DEFAULT),
                               object, "create the dataset"),
                       H5Dclose);
  checked(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str()), object,
          "write the text");
}

}  // namespace fedspallm::data::hdf5
