// SPDX-License-Identifier: Apache-2.0
// One safetensors file. First byte even: the rest is the file. Odd: two bytes say how many bytes of data
// there are, the rest is the header, whose length is set right.
#include "fedspallm/model/safetensors.hpp"

#include "fuzz/fuzz.hpp"
#include <set>

using namespace fedspallm;

namespace {

std::string file_of(fuzz::Source source) {
  if (source.byte() % 2 == 0) return fuzz::text_of(source.rest());
  const std::size_t low = source.byte(), data = low + 256U * source.byte();
  const std::string header = fuzz::text_of(source.rest());
  std::string file(8, '\0');
  fuzz::set_word(file, 0, header.size());
  return file + header + std::string(data, '\0');
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string file = file_of(fuzz::Source({data, size}));
  std::vector<model::TensorEntry> entries;
  std::int64_t header_bytes = 0;
  if (!fuzz::accepts(
          [&] { entries = model::parse_safetensors(fuzz::raw(file), "f.safetensors", header_bytes); }))
    return 0;
  std::int64_t position = header_bytes;
  std::set<std::string> names;
  for (const model::TensorEntry& entry : entries) {
    fuzz::promise(entry.begin == position && entry.begin <= entry.end, "tensors lie one behind the other");
    fuzz::promise(names.insert(entry.name).second, "names are unique");
    position = entry.end;
    if (!entry.dtype) continue;
    auto bytes = static_cast<std::int64_t>(size_of(*entry.dtype));
    for (const std::int64_t extent : entry.shape) bytes *= extent;
    fuzz::promise(bytes == entry.end - entry.begin, "shape and bytes agree");
  }
  fuzz::promise(position == std::ssize(file), "tensors fill the file");
  return 0;
}
