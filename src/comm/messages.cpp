// SPDX-License-Identifier: Apache-2.0
#include "messages.hpp"

#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

namespace fedspallm::comm {

namespace {

class Writer {
 public:
  template <class... Values>
  void operator()(const Values&... values) {
    (put(values), ...);
  }
  std::vector<std::byte> bytes;

 private:
  template <class Value>
  requires std::is_arithmetic_v<Value> || std::is_enum_v<Value>
  void put(Value value) { append(&value, sizeof(value)); }
  void put(const std::string& text) {
    put(static_cast<std::uint64_t>(text.size()));
    append(text.data(), text.size());
  }
  template <class Value>
  requires std::is_arithmetic_v<Value>
  void put(const std::vector<Value>& values) {
    put(static_cast<std::uint64_t>(values.size()));
    append(values.data(), values.size() * sizeof(Value));
  }
  void append(const void* source, std::size_t size) {
    const std::size_t end = bytes.size();
    bytes.resize(end + size);
    if (size > 0) std::memcpy(bytes.data() + end, source, size);
  }
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class... Values>
  void operator()(Values&... values) {
    (get(values), ...);
  }
  [[nodiscard]] std::size_t left() const { return bytes_.size(); }

 private:
  void get(bool& value) {
    std::uint8_t byte = 0;
    get(byte);
    check<PeerError>(byte <= 1, "a control message holds a truth value that is neither 0 nor 1");
    value = byte == 1;
  }
  void get(ExitStatus& value) {  // only failures travel
    int number = 0;
    get(number);
    value = static_cast<ExitStatus>(number);
    constexpr int last = static_cast<int>(ExitStatus::numerical);
    check<PeerError>((number > 0 && number <= last) || value == ExitStatus::stopped,
                     "a control message tells of a failure with a status that is none");
  }
  void get(Boundary& value) {
    int number = 0;
    get(number);
    value = static_cast<Boundary>(number);
    check<PeerError>(value == Boundary::save || value == Boundary::stop,
                     "a control message asks for neither a save nor a stop");
  }
  template <class Value>
  requires std::is_arithmetic_v<Value> || std::is_enum_v<Value>
  void get(Value& value) {
    const auto part = take(sizeof(value));
    std::memcpy(&value, part.data(), sizeof(value));
  }
  void get(std::string& text) {
    std::uint64_t size = 0;
    get(size);
    const auto part = take(size);
    text.assign(reinterpret_cast<const char*>(part.data()), part.size());
  }
  template <class Value>
  requires std::is_arithmetic_v<Value>
  void get(std::vector<Value>& values) {
    std::uint64_t count = 0;
    get(count);
    check<PeerError>(count <= bytes_.size() / sizeof(Value),
                     "a control message is shorter than its contents");
    const auto part = take(count * sizeof(Value));
    values.resize(static_cast<std::size_t>(count));
    if (count > 0) std::memcpy(values.data(), part.data(), part.size());
  }
  std::span<const std::byte> take(std::uint64_t size) {
    check<PeerError>(size <= bytes_.size(), "a control message is shorter than its contents");
    const auto part = bytes_.first(static_cast<std::size_t>(size));
    bytes_ = bytes_.subspan(part.size());
    return part;
  }
  std::span<const std::byte> bytes_;
};

// One list of fields per message serves writing (const) and reading.
template <class Archive, class Value>
void fields(Archive& archive, Value& value) {
  using Plain = std::remove_const_t<Value>;
  if constexpr (std::is_same_v<Plain, Failure>) {
    archive(value.status, value.text);
  } else if constexpr (std::is_same_v<Plain, Announcement>) {
    archive(value.client, value.kept, value.largest, value.largest_diagonal, value.report.error,
            value.report.seconds, value.report.kept_zeros, value.report.damping_steps, value.report.damping,
            value.report.dead_columns);
  } else if constexpr (std::is_same_v<Plain, GrantMessage>) {
    archive(value.unit, value.client);
  } else if constexpr (std::is_same_v<Plain, ScaleMessage>) {
    archive(value.unit, value.q, value.diagonal_q, value.upstream, value.downstream, value.adders);
  } else if constexpr (std::is_same_v<Plain, DurableMessage>) {
    archive(value.units);
  } else if constexpr (std::is_same_v<Plain, DropMessage>) {
    archive(value.client, value.block, value.reason);
  } else if constexpr (std::is_same_v<Plain, LateMessage>) {
    archive(value.client, value.unit);
  } else if constexpr (std::is_same_v<Plain, WishMessage>) {
    archive(value.what);
  } else if constexpr (std::is_same_v<Plain, BegunMessage>) {
    archive(value.next);
  } else if constexpr (std::is_same_v<Plain, DecisionMessage>) {
    archive(value.what, value.block);
  } else if constexpr (std::is_same_v<Plain, FinishMessage>) {
    archive(value.stopped);
  } else if constexpr (std::is_same_v<Plain, DoneMessage>) {
    archive(value.stopped, value.block);
  } else if constexpr (std::is_same_v<Plain, FetchMessage>) {
    archive(value.block);
  } else if constexpr (std::is_same_v<Plain, BlockMessage>) {
    archive(value.block, value.bytes);
  } else if constexpr (std::is_same_v<Plain, FailedMessage> || std::is_same_v<Plain, VerdictMessage>) {
    fields(archive, value.failure);
  } else if constexpr (std::is_same_v<Plain, SliceMessage>) {
    archive(value.unit, value.q, value.diagonal_q, value.absent);
  } else if constexpr (std::is_same_v<Plain, OfferMessage>) {
    archive(value.unit, value.kept);
  } else if constexpr (std::is_same_v<Plain, AskMessage>) {
    archive(value.unit, value.first, value.count);
  } else if constexpr (std::is_same_v<Plain, SumMessage>) {
    archive(value.unit, value.step, value.complete, value.values);
  } else if constexpr (std::is_same_v<Plain, ResultMessage>) {
    archive(value.unit, value.bytes);
  } else if constexpr (std::is_same_v<Plain, TakeMessage>) {
    archive(value.unit);
  } else if constexpr (std::is_same_v<Plain, AddMessage>) {
    archive(value.unit, value.q, value.diagonal_q, value.state, value.adder, value.adders);
  } else if constexpr (std::is_same_v<Plain, AddedMessage>) {
    archive(value.unit, value.failed);
  } else if constexpr (std::is_same_v<Plain, WrittenMessage>) {
    archive(value.unit, value.note);
  } else if constexpr (std::is_same_v<Plain, AnnounceMessage> || std::is_same_v<Plain, ReportsMessage>) {
    auto count = static_cast<std::uint64_t>(value.clients.size());
    archive(value.unit, count);
    if constexpr (!std::is_const_v<Value>) {
      check<PeerError>(count <= archive.left(), "an announcement names more clients than it holds");
      value.clients.resize(static_cast<std::size_t>(count));
    }
    for (auto& client : value.clients) fields(archive, client);
  } else if constexpr (std::is_same_v<Plain, StoppedMessage>) {
    bool present = value.failure.has_value();
    archive(present);
    if constexpr (!std::is_const_v<Value>) {
      if (present) value.failure.emplace();
    }
    if (value.failure) fields(archive, *value.failure);
  } else {
    static_assert(std::is_empty_v<Plain>);
  }
}

template <std::size_t... I>
Message blank(std::size_t kind, std::index_sequence<I...>) {
  Message message;
  ((kind == I ? (void)message.emplace<I>() : void()), ...);
  return message;
}

}  // namespace

std::vector<std::byte> to_bytes(const Message& message) {
  Writer writer;
  writer(static_cast<std::uint8_t>(message.index()));
  std::visit([&](const auto& value) { fields(writer, value); }, message);
  return std::move(writer.bytes);
}

Message from_bytes(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  std::uint8_t kind = 0;
  reader(kind);
  constexpr std::size_t kinds = std::variant_size_v<Message>;
  if (kind >= kinds)
    throw PeerError(fmt::format("control message of unknown kind {} (known: 0 to {})", kind, kinds - 1));
  Message message = blank(kind, std::make_index_sequence<kinds>());
  std::visit([&](auto& value) { fields(reader, value); }, message);
  if (reader.left() != 0) {
    throw PeerError(fmt::format("a control message of kind {} has {} bytes too many", kind, reader.left()));
  }
  return message;
}

std::int64_t message_bytes(const Message& message) {
  return static_cast<std::int64_t>(to_bytes(message).size());
}

std::int64_t announce_bytes(std::int64_t clients) {
  static const auto one = static_cast<std::int64_t>(to_bytes(AnnounceMessage{0, {Announcement()}}).size());
  static const auto none = static_cast<std::int64_t>(to_bytes(AnnounceMessage()).size());
  return none + clients * (one - none);
}

Failure failure_of(const Error& error, const std::string& rank_name) {
  return {error.status(), fmt::format("{}: {}", rank_name, error.what())};
}

Failure current_failure(const std::string& rank_name) {
  return failure_of(current_error(), rank_name);
}

}  // namespace fedspallm::comm
