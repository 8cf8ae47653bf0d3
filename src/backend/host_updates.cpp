// SPDX-License-Identifier: Apache-2.0
#include "host_updates.hpp"

#include "fedspallm/base/error.hpp"

#include "checks.hpp"
#include "cuda/elements.hpp"
#include "host_tile.hpp"
#include <algorithm>
#include <cstring>
#include <new>

namespace fedspallm::backend {

namespace {

constexpr std::align_val_t kAlignment{256};

std::uint32_t magnitude_bits(float value) {
  return cuda::bits_of(value) & 0x7fffffffU;
}

}  // namespace

std::shared_ptr<std::byte> HostUpdates::allocate(std::int64_t bytes) {
  require(bytes >= 1, "allocate: bytes >= 1");
  return {new (kAlignment) std::byte[static_cast<std::size_t>(bytes)],
          [](std::byte* memory) { operator delete[](memory, kAlignment); }};
}

void HostUpdates::write(std::span<const std::byte> host, std::byte* device) {
  std::copy(host.begin(), host.end(), device);
}

void HostUpdates::read(const std::byte* device, std::span<std::byte> host) {
  std::copy_n(device, host.size(), host.begin());
}

UpdateOps::Packed HostUpdates::pack(View w, View mask, DType dtype,
                                    const std::function<Place(std::int64_t kept)>& place) {
  std::vector<std::uint64_t> bits(static_cast<std::size_t>((w.size() + 63) / 64));
  std::vector<std::byte> values;
  Packed packed;
  packed.kept = sparse_.pack(w, mask, dtype, bits, values);
  const Place target = place(packed.kept);
  if (!bits.empty()) std::memcpy(target.bits, bits.data(), bits.size() * sizeof(std::uint64_t));
  if (!values.empty()) std::memcpy(target.values, values.data(), values.size());
  std::uint32_t largest = 0;
  for (std::size_t place_of = 0; place_of < values.size(); place_of += size_of(dtype)) {
    float value = 0;
    widen(dtype, values.data() + place_of, &value, 1);
    largest = std::max(largest, magnitude_bits(value));
    packed.kept_zeros += value == 0 ? 1 : 0;
  }
  packed.largest = cuda::float_of(largest);
  return packed;
}

void HostUpdates::clear(std::int64_t weights, std::byte* tiles) {
  std::memset(tiles, 0, static_cast<std::size_t>((weights + 63) / 64) * sizeof(HostTile));
}

UpdateOps::Added HostUpdates::add(const Update& update, int q, std::byte* tiles) {
  checks::add_update(update);
  Added added;
  std::uint32_t largest = 0;
  for (std::int64_t index = 0; index < (update.weights + 63) / 64 * 64; ++index) {
    const auto byte = static_cast<unsigned>(update.bits[index / 8]);
    if ((byte >> (index % 8) & 1U) == 0) continue;
    if (index >= update.weights) {
      added.padding_set = true;
      continue;
    }
    const std::int64_t place = added.kept++;
    if (place >= update.kept) continue;
    float value = 0;
    widen(update.dtype, update.values + place * static_cast<std::int64_t>(size_of(update.dtype)), &value, 1);
    largest = std::max(largest, magnitude_bits(value));
    HostTile& tile = reinterpret_cast<HostTile*>(tiles)[index / 64];
    tile.sum[index % 64] += cuda::quantize_element(value, q);
    ++tile.kept[index % 64];
  }
  added.largest = cuda::float_of(largest);
  return added;
}

}  // namespace fedspallm::backend
