// SPDX-License-Identifier: Apache-2.0
// HDF5's own errors are expected here (not every combination exists) and ignored: what could be made is what
// is read.
#include "hostile_hdf5.hpp"

#include "fedspallm/data/hdf5.hpp"

#include <hdf5.h>

#include <algorithm>
#include <array>

namespace fedspallm::fuzz {

namespace {

using data::hdf5::Handle;

constexpr std::size_t kMostChanges = 8;
constexpr std::size_t kMostWritten = 8192;  // bytes of a dataset; larger ones stay unwritten

// ---------------------------------------------------------------- types

Handle string_type(Source& source) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  const std::array<std::size_t, 6> sizes = {H5T_VARIABLE, 1, 8, 65, 4096, 70000};
  H5Tset_size(type.get(), sizes[source.below(sizes.size())]);
  H5Tset_strpad(type.get(), static_cast<H5T_str_t>(source.below(3)));
  H5Tset_cset(type.get(), source.below(2) == 0 ? H5T_CSET_ASCII : H5T_CSET_UTF8);
  return type;
}

/// Integers of odd sizes, byte orders, precisions and offsets.
Handle odd_integer(Source& source, hid_t from) {
  Handle type(H5Tcopy(from), H5Tclose);
  if (source.below(2) == 0) H5Tset_order(type.get(), H5T_ORDER_BE);
  H5Tset_size(type.get(), 1 + source.below(16));
  H5Tset_precision(type.get(), 1 + source.below(128));
  H5Tset_offset(type.get(), source.below(32));
  return type;
}

Handle compound_type() {
  Handle type(H5Tcreate(H5T_COMPOUND, 16), H5Tclose);
  H5Tinsert(type.get(), "a", 0, H5T_NATIVE_INT64);
  H5Tinsert(type.get(), "b", 8, H5T_NATIVE_DOUBLE);
  return type;
}

Handle enum_type() {
  Handle type(H5Tenum_create(H5T_STD_I32LE), H5Tclose);
  const std::int32_t value = 1;
  H5Tenum_insert(type.get(), "one", &value);
  return type;
}

Handle array_type(Source& source) {
  const std::array<hsize_t, 2> extents = {1 + source.below(4), 1 + source.below(4)};
  return {H5Tarray_create2(H5T_STD_I32LE, 1 + static_cast<unsigned>(source.below(2)), extents.data()),
          H5Tclose};
}

Handle any_type(Source& source) {
  const std::array plain = {
      H5T_STD_I8LE,   H5T_STD_U8LE,   H5T_STD_I16BE,      H5T_STD_U16LE, H5T_STD_U16BE,   H5T_STD_I32LE,
      H5T_STD_I32BE,  H5T_STD_U32LE,  H5T_STD_I64LE,      H5T_STD_I64BE, H5T_STD_U64LE,   H5T_IEEE_F32LE,
      H5T_IEEE_F32BE, H5T_IEEE_F64LE, H5T_NATIVE_LDOUBLE, H5T_STD_B8LE,  H5T_STD_REF_OBJ, H5T_UNIX_D32LE};
  const std::size_t choice = source.below(plain.size() + 8);
  if (choice < plain.size()) return {H5Tcopy(plain[choice]), H5Tclose};
  switch (choice - plain.size()) {
    case 0:
      return odd_integer(source, H5T_STD_I32LE);
    case 1:
      return odd_integer(source, H5T_STD_U64LE);
    case 2:
      return compound_type();
    case 3:
      return enum_type();
    case 4:
      return array_type(source);
    case 5:
      return {H5Tvlen_create(H5T_STD_I32LE), H5Tclose};
    case 6:
      return {H5Tcreate(H5T_OPAQUE, 1 + source.below(32)), H5Tclose};
    default:
      return string_type(source);
  }
}

// ---------------------------------------------------------------- shapes and values

struct Shape {
  bool null = false;
  std::vector<hsize_t> extents;
  std::vector<hsize_t> largest;
};

Shape any_shape(Source& source) {
  constexpr hsize_t kTop = hsize_t{1} << 62;
  const std::array<hsize_t, 15> extents = {1,
                                           0,
                                           2,
                                           3,
                                           8,
                                           10,
                                           13,
                                           64,
                                           1000,
                                           hsize_t{1} << 16,
                                           hsize_t{1} << 31,
                                           hsize_t{1} << 32,
                                           hsize_t{1} << 40,
                                           kTop,
                                           2 * kTop - 1};
  Shape shape;
  const std::size_t rank = source.below(6);
  shape.null = rank == 5;
  for (std::size_t i = 0; !shape.null && i < rank; ++i) {
    shape.extents.push_back(extents[source.below(extents.size())]);
    shape.largest.push_back(source.below(4) == 3 ? H5S_UNLIMITED : shape.extents.back());
  }
  return shape;
}

Handle space_of(const Shape& shape, bool growing) {
  if (shape.null) return {H5Screate(H5S_NULL), H5Sclose};
  if (shape.extents.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  return {H5Screate_simple(static_cast<int>(shape.extents.size()), shape.extents.data(),
                           growing ? shape.largest.data() : nullptr),
          H5Sclose};
}

/// Bytes in memory of such a value, or 0 where that is too many or not known.
std::size_t size_in_memory(const Shape& shape, hid_t type) {
  std::size_t bytes = shape.null ? 0 : H5Tget_size(type);
  for (const hsize_t extent : shape.extents)
    if (__builtin_mul_overflow(bytes, extent, &bytes) || bytes > kMostWritten) return 0;
  return bytes;
}

/// Calls write(buffer): the input's bytes as they are, or pointers to a text where the type has variable
/// length.
template <class Write>
void with_value(hid_t type, std::size_t bytes, Source& source, Write write) {
  if (bytes == 0 || H5Tget_class(type) == H5T_VLEN) return;
  if (H5Tis_variable_str(type) > 0) {
    std::string text = text_of(source.bytes(source.byte()));
    const std::vector<char*> pointers(bytes / sizeof(char*), text.data());
    return write(static_cast<const void*>(pointers.data()));
  }
  const Bytes given = source.bytes(bytes < 64 ? bytes : source.byte());
  std::vector<std::uint8_t> buffer(bytes);
  for (std::size_t i = 0; i < bytes && !given.empty(); ++i) buffer[i] = given[i % given.size()];
  write(static_cast<const void*>(buffer.data()));
}

// ---------------------------------------------------------------- changes

Handle open_object(hid_t file, const std::string& path) {
  return {H5Oopen(file, path.c_str(), H5P_DEFAULT), H5Oclose};
}

/// HDF5 1.10.8 crashes while it writes an attribute of 2^63 bytes or more (docs/fuzzing.md).
bool too_large_for_an_attribute(const Shape& shape) {
  for (const hsize_t extent : shape.extents)
    if (extent > kMostWritten) return true;
  return false;
}

void replace_attribute(hid_t holder, const std::string& name, Source& source) {
  H5Adelete(holder, name.c_str());
  if (source.below(8) == 7) return;
  const Handle type = source.below(2) == 0 ? Handle(H5Tcopy(H5T_STD_I64LE), H5Tclose) : any_type(source);
  const Shape shape = source.below(4) == 3 ? any_shape(source) : Shape{};
  if (too_large_for_an_attribute(shape)) return;
  const Handle space = space_of(shape, false);
  const Handle attribute(H5Acreate2(holder, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose);
  if (!attribute) return;
  with_value(type.get(), size_in_memory(shape, type.get()), source,
             [&](const void* value) { H5Awrite(attribute.get(), type.get(), value); });
}

/// Without nbit and scaleoffset: HDF5 1.10.8 writes beyond its buffers with them and odd types
/// (docs/fuzzing.md), and our reader refuses them.
void choose_layout(hid_t properties, const Shape& shape, std::size_t bytes, Source& source) {
  const std::array<hsize_t, 4> chunk = {2, 3, 1, 5};
  switch (source.below(8)) {
    case 1:
      H5Pset_layout(properties, H5D_COMPACT);
      break;
    case 2:
    case 3:
    case 4:
      if (!shape.extents.empty())
        H5Pset_chunk(properties, static_cast<int>(shape.extents.size()), chunk.data());
      if (source.below(2) != 0) H5Pset_deflate(properties, 1);
      if (source.below(2) != 0) H5Pset_shuffle(properties);
      if (source.below(2) != 0) H5Pset_fletcher32(properties);
      break;
    case 5:
      H5Pset_external(properties, (scratch() / "elsewhere").c_str(), 0, bytes);
      break;
    case 6:
      if (bytes > 0) H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
      break;
    default:
      break;
  }
}

void replace_dataset(hid_t holder, const std::string& name, Source& source) {
  const Handle type = any_type(source);
  const Shape shape = any_shape(source);
  const std::size_t bytes = size_in_memory(shape, type.get());
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  choose_layout(properties.get(), shape, bytes, source);
  const Handle space = space_of(shape, H5Pget_layout(properties.get()) == H5D_CHUNKED);
  const Handle dataset(
      H5Dcreate2(holder, name.c_str(), type.get(), space.get(), H5P_DEFAULT, properties.get(), H5P_DEFAULT),
      H5Dclose);
  if (!dataset || source.below(4) == 3) return;
  with_value(type.get(), bytes, source, [&](const void* value) {
    H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, value);
  });
}

/// Whether so many values can be written at all.
bool small(hid_t space) {
  std::array<hsize_t, H5S_MAX_RANK> extents{};
  const int rank = H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  hsize_t count = 1;
  for (int i = 0; i < rank && count <= kMostWritten; ++i)
    count *= std::min<hsize_t>(extents[static_cast<std::size_t>(i)], kMostWritten + 1);
  return rank >= 0 && count <= kMostWritten && H5Sget_simple_extent_type(space) != H5S_NULL;
}

/// Another value of the dataset as it is; texts (fixed length) are replaced by one of the length given.
void rewrite_dataset(hid_t holder, const std::string& name, Source& source) {
  std::vector<std::uint8_t> value;
  {
    const Handle dataset(H5Dopen2(holder, name.c_str(), H5P_DEFAULT), H5Dclose);
    const Handle type(H5Dget_type(dataset.get()), H5Tclose);
    const Handle space(H5Dget_space(dataset.get()), H5Sclose);
    if (H5Tget_class(type.get()) != H5T_STRING) {
      const bool few = small(space.get());
      const auto count = few ? H5Sget_simple_extent_npoints(space.get()) : 0;
      with_value(type.get(), static_cast<std::size_t>(count) * H5Tget_size(type.get()), source,
                 [&](const void* buffer) {
                   H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, buffer);
                 });
      return;
    }
  }
  const std::string text = text_of(source.bytes(1U + source.byte() + 256U * source.below(8)));
  H5Ldelete(holder, name.c_str(), H5P_DEFAULT);
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), text.size() + 1);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle dataset(
      H5Dcreate2(holder, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      H5Dclose);
  H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str());
}

/// Something else under the object's name, or nothing.
void replace_link(hid_t holder, const std::string& name, const std::string& other, Source& source) {
  H5Ldelete(holder, name.c_str(), H5P_DEFAULT);
  switch (source.below(8)) {
    case 1:
      H5Lcreate_soft(name.c_str(), holder, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 2:
      H5Lcreate_soft(other.c_str(), holder, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 3:
      H5Lcreate_hard(holder, ".", holder, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 4:
      H5Lcreate_external("absent.h5", "/", holder, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 5:
      H5Lcreate_external("hostile.h5", other.c_str(), holder, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 6: {
      const Handle group(H5Gcreate2(holder, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
      break;
    }
    case 7: {
      const Handle type = any_type(source);
      H5Tcommit2(holder, name.c_str(), type.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
      break;
    }
    default:
      break;
  }
}

/// One change. @return false at the end of the input
bool change(hid_t file, const std::vector<Object>& objects, Source& source) {
  const std::size_t operation = source.below(8);
  if (operation == 0) return false;
  const Object& object = objects[source.below(objects.size())];
  const Object& other = objects[operation % objects.size()];
  const Handle holder = open_object(file, object.holder);
  if (!holder) return true;
  if (object.kind == ObjectKind::attribute) {
    replace_attribute(holder.get(), object.name, source);
  } else if (operation == 1) {
    replace_link(holder.get(), object.name, other.holder + "/" + other.name, source);
  } else if (operation == 2) {
    const Handle group(H5Gcreate2(holder.get(), "one more", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  } else if (object.kind == ObjectKind::dataset && operation < 6) {
    rewrite_dataset(holder.get(), object.name, source);
  } else {
    H5Ldelete(holder.get(), object.name.c_str(), H5P_DEFAULT);
    replace_dataset(holder.get(), object.name, source);
  }
  return true;
}

}  // namespace

void write_hostile_file(const std::filesystem::path& path, const std::string& sound,
                        const std::vector<Object>& objects, Source& source) {
  // HDF5 gives the megabyte of state of each open file back to the system at once; kept, it halves the time
  // of a run.
  static const bool kept = H5set_free_list_limits(1 << 26, 1 << 26, 1 << 20, 1 << 18, 1 << 20, 1 << 18) >= 0;
  promise(kept, "HDF5 takes limits of its free lists");
  write_file(path, sound);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_file_locking(access.get(), false, true);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.get()), H5Fclose);
  if (!file) finding("HDF5 does not open what it wrote: " + path.string());
  for (std::size_t i = 0; i < kMostChanges && change(file.get(), objects, source); ++i) {
  }
  H5Eclear2(H5E_DEFAULT);
}

}  // namespace fedspallm::fuzz
