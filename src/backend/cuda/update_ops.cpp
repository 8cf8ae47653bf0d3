// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"

#include "../checks.hpp"
#include "elements.hpp"
#include "kernels.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cuda {

namespace {

constexpr std::int64_t tile_bytes = 768;

/// Counts of set bits, where each unit's values start, and what is found of the values.
struct CountMemory {
  CountMemory(Workspace& scratch, std::int64_t size) {
    const std::int64_t units = pack_units(size).count();
    Layout layout;
    const std::size_t counts_part = layout.add<std::uint32_t>(units);
    const std::size_t starts_part = layout.add<unsigned long long>(units + 1);
    const std::size_t facts_part = layout.add<UpdateFacts>(1);
    const std::size_t bits_part = layout.add<std::uint64_t>(divide_up(size, 64));
    std::byte* memory = scratch.bytes(layout.bytes());
    counts = reinterpret_cast<std::uint32_t*>(memory + counts_part);
    starts = reinterpret_cast<unsigned long long*>(memory + starts_part);
    facts = reinterpret_cast<UpdateFacts*>(memory + facts_part);
    bits = reinterpret_cast<std::uint32_t*>(memory + bits_part);
  }
  std::uint32_t* counts;
  unsigned long long* starts;
  UpdateFacts* facts;
  std::uint32_t* bits;  // of pack()
};

void clear_facts(cudaStream_t stream, UpdateFacts* facts) {
  check_cuda(cudaMemsetAsync(facts, 0, sizeof *facts, stream), "cudaMemsetAsync");
}

}  // namespace

CudaUpdates::CudaUpdates(const Backend* owner, Engine& engine)
    : owner_(owner),
      engine_(engine),
      allocations_(make_stream()),
      stream_(make_stream()),
      memory_(engine.options().device, allocations_.get()),
      staging_(stream_.get()),
      scratch_(memory_) {}

CudaUpdates::~CudaUpdates() {
  static_cast<void>(cudaStreamSynchronize(stream_.get()));
}

cudaStream_t CudaUpdates::stream() {
  check_cuda(cudaSetDevice(engine_.options().device), "cudaSetDevice");
  return stream_.get();
}

std::shared_ptr<std::byte> CudaUpdates::allocate(std::int64_t bytes) {
  require(bytes >= 1, "allocate: bytes >= 1");
  static_cast<void>(stream());
  auto* data = static_cast<std::byte*>(memory_.allocate(static_cast<std::size_t>(bytes)));
  std::shared_ptr<std::byte> owned(data, [this](std::byte* memory) { memory_.release(memory); });
  check_cuda(cudaStreamSynchronize(allocations_.get()), "cudaStreamSynchronize");
  return owned;
}

void CudaUpdates::write(std::span<const std::byte> host, std::byte* device) {
  const std::lock_guard lock(mutex_);
  static_cast<void>(stream());
  staging_.upload(host.data(), host.size(), device);
  check_cuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
}

void CudaUpdates::read(const std::byte* device, std::span<std::byte> host) {
  const std::lock_guard lock(mutex_);
  static_cast<void>(stream());
  staging_.download(device, host.size(), host.data());
}

UpdateOps::Packed CudaUpdates::pack(View w, View mask, DType dtype,
                                    const std::function<Place(std::int64_t kept)>& place) {
  checks::pack_update(owner_, w, mask);
  const cudaStream_t stream = engine_.stream();  // w and mask are the backend's work
  Packed packed;
  if (w.empty()) {
    static_cast<void>(place(0));
    return packed;
  }
  const std::int64_t units = pack_units(w.size()).count();
  const CountMemory memory(engine_.scratch, w.size());
  pack_bits(stream, device_bytes(mask), memory.bits, memory.counts);
  exclusive_sum(stream, memory.counts, units, memory.starts);
  clear_facts(stream, memory.facts);
  packed.kept = static_cast<std::int64_t>(engine_.read(memory.starts + units));
  const Place target = place(packed.kept);
  check_cuda(cudaMemcpyAsync(target.bits, memory.bits, static_cast<std::size_t>(divide_up(w.size(), 64)) * 8,
                             cudaMemcpyDeviceToDevice, stream),
             "cudaMemcpyAsync on the device");
  compress(stream, device_floats(w), memory.bits, memory.starts, dtype, target.values);
  look_at_values(stream, target.values, packed.kept, dtype, memory.facts);
  const UpdateFacts facts = engine_.read(memory.facts);
  packed.kept_zeros = static_cast<std::int64_t>(facts.zeros);
  packed.largest = float_of(facts.largest);
  return packed;
}

void CudaUpdates::clear(std::int64_t weights, std::byte* tiles) {
  const std::lock_guard lock(mutex_);
  const auto bytes = static_cast<std::size_t>(divide_up(weights, 64) * tile_bytes);
  check_cuda(cudaMemsetAsync(tiles, 0, bytes, stream()), "cudaMemsetAsync");
  check_cuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
}

UpdateOps::Added CudaUpdates::add(const Update& update, int q, std::byte* tiles) {
  checks::add_update(update);
  if (update.weights == 0) return {};
  const std::lock_guard lock(mutex_);
  const cudaStream_t own = stream();
  const std::int64_t units = pack_units(update.weights).count();
  const CountMemory memory(scratch_, update.weights);
  // The workspace may just have been allocated, on the other stream.
  check_cuda(cudaStreamSynchronize(allocations_.get()), "cudaStreamSynchronize");
  const auto* bits = reinterpret_cast<const std::uint32_t*>(update.bits);
  count_bits(own, bits, update.weights, memory.counts);
  exclusive_sum(own, memory.counts, units, memory.starts);
  clear_facts(own, memory.facts);
  accumulate(own, bits, update.weights, memory.starts, update.values, update.kept, update.dtype, q, tiles,
             memory.facts);
  UpdateFacts facts{};
  unsigned long long set = 0;
  staging_.download(memory.facts, sizeof facts, &facts);
  staging_.download(memory.starts + units, sizeof set, &set);
  Added added;
  added.kept = static_cast<std::int64_t>(set);
  added.padding_set = facts.padding != 0;
  added.largest = float_of(facts.largest);
  return added;
}

}  // namespace fedspallm::backend::cuda
