// SPDX-License-Identifier: Apache-2.0
// A client's state for resume. First byte even: both checksums are set right (the header's layout:
// state_store.cpp).
#include "fedspallm/base/hash.hpp"
#include "fedspallm/store/state_store.hpp"

#include "fuzz/fuzz.hpp"

using namespace fedspallm;

namespace {

constexpr std::size_t kHeader = 64;
constexpr std::int64_t kRows = 2, kColumns = 3;

std::string with_right_checksums(std::string bytes) {
  if (bytes.size() < kHeader) return bytes;
  fuzz::set_word(bytes, 48, checksum(fuzz::raw(bytes).subspan(kHeader)));
  fuzz::set_word(bytes, 56, checksum(fuzz::raw(bytes).first(56)));
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Source source({data, size});
  const bool put_right = source.byte() % 2 == 0;
  std::string bytes = fuzz::text_of(source.rest());
  if (put_right) bytes = with_right_checksums(std::move(bytes));
  const std::filesystem::path folder = fuzz::scratch() / "state";
  std::filesystem::create_directories(folder);
  fuzz::write_file(folder / "r01-b0002.state", bytes);
  const store::StateStore states(folder, 7);
  fuzz::promise(states.positions() == std::vector<store::Position>{{1, 2}}, "the file is listed");
  std::string floats;
  const bool read = fuzz::accepts([&] {
    states.read({1, 2}, kRows, kColumns, 1, [&](std::int64_t first, std::span<const float> row) {
      fuzz::promise(first * kColumns * 4 == std::ssize(floats) && std::ssize(row) == kColumns, "row by row");
      floats.append(reinterpret_cast<const char*>(row.data()), row.size_bytes());
    });
  });
  fuzz::promise(states.verify({1, 2}, kRows, kColumns) == read, "verify() says what read() would do");
  fuzz::promise(!read || floats == bytes.substr(kHeader), "the rows are the file's");
  return 0;
}
