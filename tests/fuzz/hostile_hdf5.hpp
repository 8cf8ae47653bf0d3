// SPDX-License-Identifier: Apache-2.0
// Purpose: hostile HDF5 files that are valid HDF5. HDF5 1.10.8 itself crashes on damaged bytes, which no
// program above it can prevent, so a target starts from a sound file and the input says what is done to its
// objects: types, shapes, layouts, filters, values, links. Non-goal: damaged bytes; those must not reach HDF5
// (manifest_fuzz.cpp).
#pragma once

#include "fuzz/fuzz.hpp"
#include <filesystem>
#include <string>
#include <vector>

namespace fedspallm::fuzz {

enum class ObjectKind { attribute, dataset, group };

/// An object of the sound file.
struct Object {
  ObjectKind kind;
  std::string holder;  // path of the group (or dataset) that has it
  std::string name;
};

/// Writes `sound`, the bytes of a valid HDF5 file, to `path` and changes it as the input says: a zero byte,
/// or the end of the input, ends the changes; none leaves the sound file.
void write_hostile_file(const std::filesystem::path& path, const std::string& sound,
                        const std::vector<Object>& objects, Source& source);

}  // namespace fedspallm::fuzz
