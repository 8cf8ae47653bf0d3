// SPDX-License-Identifier: Apache-2.0
// Purpose: model.fspm, a whole model directory in one file, in which each pruned matrix is a mask and its
// kept values. Lossless: unpacking gives the directory back byte for byte and needs nothing else.
// Layout, little-endian:
//   0   u32 magic "FSPM", u32 version 1
//   8   u64 offset, u64 length, u64 xxh3 of the JSON header
//   32  u64 length of the whole file, 16 zero bytes
//   56  u64 xxh3 of bytes 0..55
//   64  stored data, then the JSON header:
//       {"format_version":1, "kind":"fedspallm bitmask model", "model_sha256":"of the dense model",
//        "files":[{"name":"model.safetensors","bytes":n,"segments":[SEGMENT,...]},...]}
// A file is its segments one after the other. Each SEGMENT has "kind", "bytes" (its length in the file),
// "tensor" (where it is one), and by kind
//   "raw"      "data": the bytes themselves
//   "widen"    "dtype", "data": 16-bit floats that become float32
//   "bitmask"  "dtype", "rows", "cols", "kept", "mask", "values": ceil(rows * cols / 8) bytes of mask, in
//              which weight i (row-major) is bit i % 8 of byte i / 8 and 1 means kept, and the kept weights;
//              dropped weights are +0
// where data, mask and values are {"offset", "stored", "xxh3"}: place and length in model.fspm, checksum.
// Non-goals: random access, compression (a mask at 50 % is at its entropy, and so are weights, nearly).
#pragma once

#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/model_writer.hpp"

#include "output_plan.hpp"
#include <filesystem>
#include <string>

namespace fedspallm::store {

/// @return the bytes written. @pre records agree with the plan in shape and dtype
std::int64_t write_bitmask_file(const std::filesystem::path& path, const model::ModelDirectory& input,
                                const OutputPlan& plan, const std::string& model_sha256,
                                const BlockSource& blocks);

/// @throws DataError naming the file; everything is checked before it is used
/// @return the bytes of the directory. `folder` must exist and be empty.
std::int64_t unpack_bitmask_file(const std::filesystem::path& path, const std::filesystem::path& folder);

/// SHA-256 of the dense model that the file was made from, "" where it was not recorded. @throws DataError
[[nodiscard]] std::string model_digest_of_bitmask_file(const std::filesystem::path& path);

}  // namespace fedspallm::store
