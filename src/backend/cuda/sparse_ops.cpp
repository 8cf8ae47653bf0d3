// SPDX-License-Identifier: Apache-2.0
#include "../checks.hpp"
#include "kernels.hpp"
#include "ops.hpp"
#include <bit>

namespace fedspallm::backend::cuda {

namespace {

static_assert(std::endian::native == std::endian::little, "bits travel as 32-bit halves of 64-bit words");

/// Where packing and unpacking keep their parts on the device.
struct PackMemory {
  PackMemory(Engine& engine, std::int64_t size, std::size_t value_bytes) {
    const std::int64_t units = pack_units(size).count();
    Layout layout;
    const std::size_t bits_part = layout.add<std::uint64_t>(divide_up(size, 64));
    const std::size_t counts_part = layout.add<std::uint32_t>(units);
    const std::size_t starts_part = layout.add<unsigned long long>(units + 1);
    const std::size_t values_part = layout.add<std::byte>(static_cast<std::int64_t>(value_bytes));
    std::byte* memory = engine.scratch.bytes(layout.bytes());
    bits = reinterpret_cast<std::uint32_t*>(memory + bits_part);
    counts = reinterpret_cast<std::uint32_t*>(memory + counts_part);
    starts = reinterpret_cast<unsigned long long*>(memory + starts_part);
    values = memory + values_part;
  }
  std::uint32_t* bits;
  std::uint32_t* counts;
  unsigned long long* starts;
  std::byte* values;
};

}  // namespace

std::int64_t CudaSparse::pack(View w, View mask, DType dtype, std::span<std::uint64_t> bits,
                              std::vector<std::byte>& values) {
  checks::pack(owner_, w, mask, bits);
  values.clear();
  if (w.empty()) return 0;
  const cudaStream_t stream = engine_.stream();
  const std::int64_t units = pack_units(w.size()).count();
  const auto dense_bytes = static_cast<std::size_t>(w.size()) * size_of(dtype);
  const PackMemory memory(engine_, w.size(), dense_bytes);
  pack_bits(stream, device_bytes(mask), memory.bits, memory.counts);
  exclusive_sum(stream, memory.counts, units, memory.starts);
  compress(stream, device_floats(w), memory.bits, memory.starts, dtype, memory.values);
  const auto kept = static_cast<std::int64_t>(engine_.read(memory.starts + units));
  engine_.staging.download(memory.bits, bits.size_bytes(), bits.data());
  values.resize(static_cast<std::size_t>(kept) * size_of(dtype));
  engine_.staging.download(memory.values, values.size(), values.data());
  return kept;
}

void CudaSparse::unpack(std::span<const std::uint64_t> bits, std::span<const std::byte> values, DType dtype,
                        View w) {
  static_cast<void>(checks::unpack(owner_, bits, values, dtype, w));
  if (w.empty()) return;
  const PackMemory memory(engine_, w.size(), values.size());
  engine_.upload(bits.data(), static_cast<std::int64_t>(bits.size()),
                 reinterpret_cast<std::uint64_t*>(memory.bits));
  engine_.upload(values.data(), static_cast<std::int64_t>(values.size()), memory.values);
  const cudaStream_t stream = engine_.stream();
  count_bits(stream, memory.bits, w.size(), memory.counts);
  exclusive_sum(stream, memory.counts, pack_units(w.size()).count(), memory.starts);
  expand(stream, memory.bits, memory.starts, memory.values, dtype, device_floats(w));
}

void CudaSparse::unpack_mask(std::span<const std::uint64_t> bits, View mask) {
  checks::unpack_mask(owner_, bits, mask);
  if (mask.empty()) return;
  auto* device_bits = engine_.scratch.elements<std::uint64_t>(static_cast<std::int64_t>(bits.size()));
  engine_.upload(bits.data(), static_cast<std::int64_t>(bits.size()), device_bits);
  bits_to_mask(engine_.stream(), reinterpret_cast<const std::uint32_t*>(device_bits), device_bytes(mask));
}

}  // namespace fedspallm::backend::cuda
