// SPDX-License-Identifier: Apache-2.0
// Purpose: what hdf5.cpp and hdf5_dataset.cpp share: the error stack as text, and types. Not public.
#pragma once

#include "fedspallm/data/hdf5.hpp"

#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <type_traits>

namespace fedspallm::data::hdf5 {

static_assert(std::is_same_v<hid_t, std::int64_t>, "Handle holds hid_t as int64");

/// Lives while a function uses HDF5. One thread at a time: many sites' libraries are built without a lock of
/// their own, and those that have one let in one thread at a time, too. Stops HDF5 from printing its error
/// stack. A thread may have several.
class Session {
 public:
  Session();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};
/// The calling thread's error stack, innermost first, in one line; the stack is cleared.
/// @param[out] out_of_memory  set when HDF5 could not allocate
[[nodiscard]] std::string error_stack(bool& out_of_memory);

[[nodiscard]] hid_t native_type(Scalar type);
[[nodiscard]] hid_t file_type(Scalar type);
[[nodiscard]] bool has_type(hid_t found, Scalar type);
[[nodiscard]] std::size_t size_of(Scalar type);
[[nodiscard]] const char* name_of(Scalar type);
/// "int32", "float64", "string", "compound", ... of a type in a file.
[[nodiscard]] std::string describe_type(hid_t type);
/// "3 x 4", or "scalar".
[[nodiscard]] std::string describe_shape(const std::vector<std::int64_t>& shape);

}  // namespace fedspallm::data::hdf5
