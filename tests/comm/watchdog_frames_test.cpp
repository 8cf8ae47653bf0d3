// SPDX-License-Identifier: Apache-2.0
// Watchdog messages go there and back; what is no message is refused.
#include "comm/watchdog/watchdog_frames.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace fedspallm::comm::watchdog {
namespace {

Frame only_frame(const std::string& bytes) {
  FrameReader reader;
  reader.add(bytes);
  auto frame = reader.next();
  if (!frame) throw DataError("no whole frame");
  EXPECT_FALSE(reader.next().has_value());
  return *frame;
}

Report some_report() {
  return {State::finishing, 513, -1, 12.25};
}

TEST(WatchdogFrames, GoThereAndBack) {
  const Hello hello = decode_hello(only_frame(encode_hello({{0xfedcba9876543210U, 7}, 70000, 2})));
  EXPECT_EQ(hello.token, (std::array<std::uint64_t, 2>{0xfedcba9876543210U, 7}));
  EXPECT_EQ(hello.rank, 70000);
  EXPECT_EQ(hello.hub, 2);
  const std::array<std::uint64_t, 2> token = {1, std::numeric_limits<std::uint64_t>::max()};
  EXPECT_EQ(decode_welcome(only_frame(encode_welcome(token))), token);
  EXPECT_EQ(decode_report(only_frame(encode_report(some_report()))), some_report());
  const Verdict verdict{Loss::Cause::failed, 4095, some_report(), 1.5, "caf\xc3\xa9"};
  EXPECT_EQ(decode_end(only_frame(encode_end(verdict))), verdict);
  const Verdict stop{Loss::Cause::stopped, 0, {State::stopped, 1, 2, 0}, 0, "asked to"};
  EXPECT_EQ(decode_end(only_frame(encode_end(stop))), stop);
  EXPECT_EQ(only_frame(encode_failure("why")).body, "why");
  EXPECT_EQ(only_frame(encode_bare(Kind::done)).kind, Kind::done);
  EXPECT_EQ(only_frame(encode_bare(Kind::goodbye)).kind, Kind::goodbye);
}

TEST(WatchdogFrames, HaveTheDocumentedBytes) {
  EXPECT_EQ(encode_bare(Kind::goodbye), std::string("\0\0\0\0\x07", 5));
  EXPECT_EQ(encode_failure("ab"), std::string("\x02\0\0\0\x04"
                                              "ab",
                                              7));
}

TEST(WatchdogFrames, ArriveInAnyPieces) {
  const std::string bytes = encode_report(some_report()) + encode_failure("x") + encode_bare(Kind::done);
  for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
    FrameReader reader;
    std::vector<Kind> kinds;
    for (std::size_t begin = 0; begin < bytes.size(); begin += piece) {
      reader.add(std::string_view(bytes).substr(begin, piece));
      while (const auto frame = reader.next()) kinds.push_back(frame->kind);
    }
    EXPECT_EQ(kinds, (std::vector<Kind>{Kind::report, Kind::failure, Kind::done})) << "pieces of " << piece;
  }
}

TEST(WatchdogFrames, LongTextsAreCut) {
  const std::string text(100'000, 'x');
  EXPECT_EQ(only_frame(encode_failure(text)).body.size(), 4096U);
  EXPECT_EQ(decode_end(only_frame(encode_end({Loss::Cause::failed, 0, {}, 0, text}))).text.size(), 4096U);
}

TEST(WatchdogFrames, ImpossibleLengthsAndKindsAreRefusedBeforeTheBodyCame) {
  for (const std::string& head :
       {std::string("\xff\xff\xff\xff\x03", 5), std::string("\x01\x20\0\0\x03", 5),
        std::string("\0\0\0\0\0", 5), std::string("\0\0\0\0\x08", 5), std::string("GET / HTTP/1.1\r\n")}) {
    FrameReader reader;
    reader.add(head);
    EXPECT_THROW((void)reader.next(), DataError);
  }
}

TEST(WatchdogFrames, BodiesOfAnotherLengthAreRefused) {
  const auto refused = [](const std::string& bytes, const auto& decode) {
    const Frame whole = only_frame(bytes);
    for (std::size_t length = 0; length < whole.body.size(); ++length)
      EXPECT_THROW((void)decode(Frame{whole.kind, whole.body.substr(0, length)}), DataError) << length;
    EXPECT_THROW((void)decode(Frame{whole.kind, whole.body + "x"}), DataError);
  };
  refused(encode_hello({{1, 2}, 3, 0}), decode_hello);
  refused(encode_welcome({1, 2}), decode_welcome);
  refused(encode_report(some_report()), decode_report);
}

TEST(WatchdogFrames, ImpossibleValuesAreRefused) {
  for (const double idle : {std::nan(""), -1.0, std::numeric_limits<double>::infinity()})
    EXPECT_THROW((void)decode_report(only_frame(encode_report({State::working, 0, 0, idle}))), DataError);
  Frame report = only_frame(encode_report(some_report()));
  report.body[0] = 5;  // no such state
  EXPECT_THROW((void)decode_report(report), DataError);
  Frame end = only_frame(encode_end({}));
  end.body[0] = 5;  // no such cause
  EXPECT_THROW((void)decode_end(end), DataError);
  Frame hello = only_frame(encode_hello({}));
  hello.body[0] = 'X';  // another program
  EXPECT_THROW((void)decode_hello(hello), DataError);
  hello = only_frame(encode_hello({}));
  hello.body[4] = 1;  // another version
  EXPECT_THROW((void)decode_hello(hello), DataError);
  EXPECT_THROW((void)decode_hello(only_frame(encode_bare(Kind::done))), DataError);
  EXPECT_THROW((void)decode_welcome(only_frame(encode_bare(Kind::done))), DataError);
}

TEST(WatchdogFrames, RandomBytesNeverDoMoreThanBeRefused) {
  std::mt19937 random(1);
  int whole = 0;
  for (int run = 0; run < 20'000; ++run) {
    std::string bytes = encode_end({Loss::Cause::stuck, 1, some_report(), 2, "text"}) + encode_report({});
    for (int change = 0; change < 3; ++change) bytes[random() % bytes.size()] = static_cast<char>(random());
    FrameReader reader;
    reader.add(bytes);
    try {
      while (const auto frame = reader.next()) {
        if (frame->kind == Kind::report) (void)decode_report(*frame);
        if (frame->kind == Kind::end) (void)decode_end(*frame);
        ++whole;
      }
    } catch (const DataError&) {  // refused: fine
    }
  }
  EXPECT_GT(whole, 1000);  // the changes are small enough that many frames were looked into
}

}  // namespace
}  // namespace fedspallm::comm::watchdog
