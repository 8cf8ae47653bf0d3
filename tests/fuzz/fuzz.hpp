// SPDX-License-Identifier: Apache-2.0
// Purpose: what every fuzz target shares. A target is one function over bytes that the parser under test must
// accept or refuse with an Error of the expected exit status; everything else (another exception, a crash, a
// hang, an allocation out of proportion, a broken promise about what was accepted) is a finding, and ends the
// process. Non-goals: how targets are built and run (cmake/FedspallmFuzz.cmake, run.sh), findings
// (docs/fuzzing.md).
#pragma once

#include "fedspallm/base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::fuzz {

using Bytes = std::span<const std::uint8_t>;

/// Ends the process with a message: a promise was broken.
[[noreturn]] void finding(const std::string& what);

inline void promise(bool kept, const char* what) {
  if (!kept) finding(what);
}

/// Runs `parse`. @return whether it accepted the input. Any exception but an Error of the given status, or
/// one with an empty message, is a finding.
template <class Parse>
bool accepts(Parse&& parse, ExitStatus refusal = ExitStatus::bad_input) {
  try {
    parse();
    return true;
  } catch (const Error& error) {
    if (error.status() != refusal || dynamic_cast<const LogicError*>(&error) != nullptr)
      finding(std::string("an error of another status: ") + error.what());
    promise(*error.what() != '\0', "a refusal has a message");
    return false;
  } catch (const std::exception& error) {
    finding(std::string("an exception of another type: ") + error.what());
  }
}

/// Takes numbers and texts off the front of the input; zeros and nothing behind its end.
class Source {
 public:
  explicit Source(Bytes bytes) : rest_(bytes) {}
  [[nodiscard]] bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const std::uint8_t first = rest_.front();
    rest_ = rest_.subspan(1);
    return first;
  }
  /// 0 .. bound - 1. @pre 0 < bound <= 256
  std::size_t below(std::size_t bound) { return byte() % bound; }
  std::uint64_t word() {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value |= static_cast<std::uint64_t>(byte()) << (8 * i);
    return value;
  }
  Bytes bytes(std::size_t count) {
    const Bytes taken = rest_.first(count < rest_.size() ? count : rest_.size());
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  Bytes rest() { return bytes(rest_.size()); }

 private:
  Bytes rest_;
};

[[nodiscard]] inline std::string text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
[[nodiscard]] inline std::span<const std::byte> raw(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// The parts of a text between lines "%%".
[[nodiscard]] std::vector<std::string> sections(const std::string& text);

/// A folder of this process in memory (/dev/shm where there is one), removed at the end of the process.
[[nodiscard]] const std::filesystem::path& scratch();
void write_file(const std::filesystem::path& path, std::string_view bytes);
[[nodiscard]] std::string read_file(const std::filesystem::path& path);

/// Little-endian words in a byte string, for checksums that a target sets right again.
[[nodiscard]] std::uint64_t get_word(const std::string& bytes, std::size_t offset);
void set_word(std::string& bytes, std::size_t offset, std::uint64_t value);

}  // namespace fedspallm::fuzz
