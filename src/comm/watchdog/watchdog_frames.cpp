// SPDX-License-Identifier: Apache-2.0
#include "watchdog_frames.hpp"

#include <bit>
#include <cmath>
#include <type_traits>
#include <utility>

namespace fedspallm::comm::watchdog {

namespace {

constexpr std::uint32_t kMagic = 0x57504653;  // "SFPW"
constexpr std::uint16_t kVersion = 2;
constexpr std::size_t kLargestBody = 8192;
constexpr std::size_t kLongestText = 4096;
constexpr std::size_t kHead = 5;

template <class T>
void put(std::string& bytes, T value) {
  static_assert(std::is_unsigned_v<T>);
  const std::uint64_t wide = value;
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes.push_back(static_cast<char>((wide >> (8 * i)) & 0xffU));
}

/// Takes values off the front of a body; too few or too many bytes are an error.
class Taker {
 public:
  explicit Taker(std::string_view bytes) : bytes_(bytes) {}

  template <class T>
  T take() {
    check<DataError>(bytes_.size() >= sizeof(T), "a watchdog message is too short");
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes_[i])) << (8 * i);
    bytes_.remove_prefix(sizeof(T));
    return static_cast<T>(value);
  }
  double take_seconds() {
    const auto seconds = std::bit_cast<double>(take<std::uint64_t>());
    check<DataError>(std::isfinite(seconds) && seconds >= 0, "a watchdog message has an impossible time");
    return seconds;
  }
  int take_rank() { return static_cast<int>(take<std::uint32_t>() & 0x7fffffffU); }
  template <class Enum>
  Enum take_enum(Enum last) {
    const auto value = take<std::uint8_t>();
    check<DataError>(value <= static_cast<std::uint8_t>(last), "a watchdog message has an unknown value");
    return static_cast<Enum>(value);
  }
  std::array<std::uint64_t, 2> take_token() {
    const auto first = take<std::uint64_t>();
    return {first, take<std::uint64_t>()};
  }
  std::string rest() { return std::string(std::exchange(bytes_, {})); }
  void end() const { check<DataError>(bytes_.empty(), "a watchdog message is too long"); }

 private:
  std::string_view bytes_;
};

std::string framed(Kind kind, const std::string& body) {
  std::string bytes;
  put(bytes, static_cast<std::uint32_t>(body.size()));
  put(bytes, static_cast<std::uint8_t>(kind));
  return bytes + body;
}

void put_report(std::string& body, const Report& report) {
  put(body, static_cast<std::uint8_t>(report.state));
  put(body, report.phase);
  put(body, static_cast<std::uint64_t>(report.block));
  put(body, std::bit_cast<std::uint64_t>(report.idle));
}

Report take_report(Taker& taker) {
  Report report;
  report.state = taker.take_enum(State::told);
  report.phase = taker.take<std::uint16_t>();
  report.block = static_cast<std::int64_t>(taker.take<std::uint64_t>());
  report.idle = taker.take_seconds();
  return report;
}

}  // namespace

std::string encode_hello(const Hello& hello) {
  std::string body;
  put(body, kMagic);
  put(body, kVersion);
  for (const std::uint64_t part : hello.token) put(body, part);
  put(body, static_cast<std::uint32_t>(hello.rank));
  put(body, static_cast<std::uint32_t>(hello.hub));
  return framed(Kind::hello, body);
}

std::string encode_welcome(const std::array<std::uint64_t, 2>& token) {
  std::string body;
  for (const std::uint64_t part : token) put(body, part);
  return framed(Kind::welcome, body);
}

std::string encode_report(const Report& report) {
  std::string body;
  put_report(body, report);
  return framed(Kind::report, body);
}

std::string encode_failure(std::string_view text) {
  return framed(Kind::failure, std::string(text.substr(0, kLongestText)));
}

std::string encode_end(const Verdict& verdict) {
  std::string body;
  put(body, static_cast<std::uint8_t>(verdict.cause));
  put(body, static_cast<std::uint32_t>(verdict.rank));
  put_report(body, verdict.place);
  put(body, std::bit_cast<std::uint64_t>(verdict.seconds));
  return framed(Kind::end, body + verdict.text.substr(0, kLongestText));
}

std::string encode_bare(Kind kind) {
  return framed(kind, {});
}

Hello decode_hello(const Frame& frame) {
  check<DataError>(frame.kind == Kind::hello, "a watchdog connection does not begin with its greeting");
  Taker taker(frame.body);
  check<DataError>(taker.take<std::uint32_t>() == kMagic && taker.take<std::uint16_t>() == kVersion,
                   "a watchdog connection is of another program or version");
  Hello hello;
  hello.token = taker.take_token();
  hello.rank = taker.take_rank();
  hello.hub = taker.take_rank();
  taker.end();
  return hello;
}

std::array<std::uint64_t, 2> decode_welcome(const Frame& frame) {
  check<DataError>(frame.kind == Kind::welcome, "a watchdog connection is not answered as it should be");
  Taker taker(frame.body);
  const auto token = taker.take_token();
  taker.end();
  return token;
}

Report decode_report(const Frame& frame) {
  Taker taker(frame.body);
  const Report report = take_report(taker);
  taker.end();
  return report;
}

Verdict decode_end(const Frame& frame) {
  Taker taker(frame.body);
  Verdict verdict;
  verdict.cause = taker.take_enum(Loss::Cause::stopped);
  verdict.rank = taker.take_rank();
  verdict.place = take_report(taker);
  verdict.seconds = taker.take_seconds();
  verdict.text = taker.rest();
  return verdict;
}

std::optional<Frame> FrameReader::next() {
  if (buffer_.size() < kHead) return std::nullopt;
  Taker head(std::string_view(buffer_).substr(0, kHead));
  const std::size_t length = head.take<std::uint32_t>();
  const auto kind = head.take<std::uint8_t>();
  check<DataError>(length <= kLargestBody, "a watchdog message is too long");
  check<DataError>(kind >= 1 && kind <= static_cast<std::uint8_t>(Kind::goodbye),
                   "a watchdog message is of an unknown kind");
  if (buffer_.size() < kHead + length) return std::nullopt;
  Frame frame{static_cast<Kind>(kind), buffer_.substr(kHead, length)};
  buffer_.erase(0, kHead + length);
  return frame;
}

}  // namespace fedspallm::comm::watchdog
