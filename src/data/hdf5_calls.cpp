// SPDX-License-Identifier: Apache-2.0
#include "hdf5_calls.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace fedspallm::data::hdf5 {

namespace {

struct Walk {
  std::string text;
  bool out_of_memory = false;
  int lines = 0;
};

// The innermost few entries say what went wrong; the outer ones repeat which API function was called.
constexpr int kStackLines = 3;

herr_t collect(unsigned /*depth*/, const H5E_error2_t* error, void* data) noexcept {
  auto& walk = *static_cast<Walk*>(data);
  try {
    if (error->maj_num == H5E_RESOURCE && error->min_num == H5E_NOSPACE) walk.out_of_memory = true;
    if (error->desc != nullptr && walk.lines < kStackLines) {
      if (!walk.text.empty()) walk.text += "; ";
      walk.text += error->desc;
      ++walk.lines;
    }
  } catch (...) {
    return -1;  // an exception must not cross HDF5's C code; the message then lacks the rest
  }
  return 0;
}

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

}  // namespace

Session::Session() : lock_(library_mutex()) {
  // HDF5's clean-up at exit crashes when a file could not be written to its end (a full disk): every handle
  // is closed by its owner, so there is nothing for it to do. Must come before any other call; safe again.
  static const bool no_exit_handler = H5dont_atexit() >= 0;
  static_cast<void>(no_exit_handler);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string error_stack(bool& out_of_memory) {
  Walk walk;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &walk);
  H5Eclear2(H5E_DEFAULT);
  out_of_memory = walk.out_of_memory;
  // Descriptions of the operating system's errors hold line ends; a message is one line.
  std::replace(walk.text.begin(), walk.text.end(), '\n', ' ');
  return walk.text.empty() ? "no details" : walk.text;
}

hid_t native_type(Scalar type) {
  switch (type) {
    case Scalar::u8:
      return H5T_NATIVE_UINT8;
    case Scalar::u16:
      return H5T_NATIVE_UINT16;
    case Scalar::i32:
      return H5T_NATIVE_INT32;
    case Scalar::u32:
      return H5T_NATIVE_UINT32;
    case Scalar::i64:
      return H5T_NATIVE_INT64;
    case Scalar::u64:
      return H5T_NATIVE_UINT64;
    case Scalar::f32:
      return H5T_NATIVE_FLOAT;
    case Scalar::f64:
      return H5T_NATIVE_DOUBLE;
  }
  return H5I_INVALID_HID;
}

hid_t file_type(Scalar type) {
  switch (type) {
    case Scalar::u8:
      return H5T_STD_U8LE;
    case Scalar::u16:
      return H5T_STD_U16LE;
    case Scalar::i32:
      return H5T_STD_I32LE;
    case Scalar::u32:
      return H5T_STD_U32LE;
    case Scalar::i64:
      return H5T_STD_I64LE;
    case Scalar::u64:
      return H5T_STD_U64LE;
    case Scalar::f32:
      return H5T_IEEE_F32LE;
    case Scalar::f64:
      return H5T_IEEE_F64LE;
  }
  return H5I_INVALID_HID;
}

namespace {

hid_t big_endian_type(Scalar type) {
  switch (type) {
    case Scalar::u8:
      return H5T_STD_U8BE;
    case Scalar::u16:
      return H5T_STD_U16BE;
    case Scalar::i32:
      return H5T_STD_I32BE;
    case Scalar::u32:
      return H5T_STD_U32BE;
    case Scalar::i64:
      return H5T_STD_I64BE;
    case Scalar::u64:
      return H5T_STD_U64BE;
    case Scalar::f32:
      return H5T_IEEE_F32BE;
    case Scalar::f64:
      return H5T_IEEE_F64BE;
  }
  return H5I_INVALID_HID;
}

}  // namespace

bool has_type(hid_t found, Scalar type) {
  return H5Tequal(found, file_type(type)) > 0 || H5Tequal(found, big_endian_type(type)) > 0;
}

std::size_t size_of(Scalar type) {
  switch (type) {
    case Scalar::u8:
      return 1;
    case Scalar::u16:
      return 2;
    case Scalar::i32:
    case Scalar::u32:
    case Scalar::f32:
      return 4;
    case Scalar::i64:
    case Scalar::u64:
    case Scalar::f64:
      return 8;
  }
  return 0;
}

const char* name_of(Scalar type) {
  switch (type) {
    case Scalar::u8:
      return "uint8";
    case Scalar::u16:
      return "uint16";
    case Scalar::i32:
      return "int32";
    case Scalar::u32:
      return "uint32";
    case Scalar::i64:
      return "int64";
    case Scalar::u64:
      return "uint64";
    case Scalar::f32:
      return "float32";
    case Scalar::f64:
      return "float64";
  }
  return "";
}

std::string describe_type(hid_t type) {
  const std::size_t bits = H5Tget_size(type) * 8;
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
      return fmt::format("{}int{}", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits);
    case H5T_FLOAT:
      return fmt::format("float{}", bits);
    case H5T_STRING:
      return "string";
    case H5T_COMPOUND:
      return "compound";
    case H5T_ENUM:
      return "enum";
    case H5T_ARRAY:
      return "array";
    case H5T_VLEN:
      return "variable-length";
    case H5T_REFERENCE:
      return "reference";
    case H5T_OPAQUE:
      return "opaque";
    case H5T_BITFIELD:
      return fmt::format("bitfield{}", bits);
    default:
      return "unknown type";
  }
}

std::string describe_shape(const std::vector<std::int64_t>& shape) {
  if (shape.empty()) return "scalar";
  return fmt::format("{}", fmt::join(shape, " x "));
}

}  // namespace fedspallm::data::hdf5
