// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/metrics.hpp"

#include "fedspallm/base/descriptor.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/report/system.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>

namespace fedspallm::report {

namespace {

constexpr std::array<const char*, 3> kReserved = {"event", "time", "monotonic"};

std::string compact(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// "2026-03-04T05:06:07.890Z" -> seconds since 1970; -1 when it is no such text.
double seconds_of_date(const std::string& text) {
  std::tm fields{};
  const char* rest = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &fields);
  if (rest == nullptr) return -1;
  char* end = nullptr;
  const double fraction = *rest == '.' ? std::strtod(rest, &end) : 0;
  if (std::string_view(end == nullptr ? rest : end) != "Z") return -1;
  return static_cast<double>(timegm(&fields)) + fraction;
}

}  // namespace

Stamp stamp_now() {
  using Seconds = std::chrono::duration<double>;
  return {.time = Seconds(std::chrono::system_clock::now().time_since_epoch()).count(),
          .monotonic = Seconds(std::chrono::steady_clock::now().time_since_epoch()).count()};
}

std::string to_json(const Event& event) {
  require(!event.name.empty(), "an event has a name");
  require(event.fields.is_object(), "an event's fields are an object");
  for (const char* name : kReserved)
    require(!event.fields.contains(name), "an event's fields leave the reserved names alone");
  const Stamp stamp = event.stamp.value_or(stamp_now());
  std::string line = fmt::format("{{\"event\":{},\"time\":\"{}\",\"monotonic\":{:.6f}", compact(event.name),
                                 iso_date(stamp.time), stamp.monotonic);
  if (!event.fields.empty())
    line += "," + compact(event.fields).substr(1);
  else
    line += "}";
  return line;
}

Event parse_event(const std::string& line) {
  nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto is = [&](const char* name, auto test) { return json.contains(name) && (json[name].*test)(); };
  const bool valid = json.is_object() && is("event", &nlohmann::json::is_string) &&
                     is("time", &nlohmann::json::is_string) && is("monotonic", &nlohmann::json::is_number) &&
                     !json["event"].get<std::string>().empty();
  const double time = valid ? seconds_of_date(json["time"].get<std::string>()) : -1;
  check<DataError>(valid && time >= 0,
                   fmt::format("found {}, expected an event: a JSON object with event, time and monotonic",
                               line.substr(0, 80)));
  Event event{.name = json["event"], .fields = {}, .stamp = Stamp{time, json["monotonic"]}};
  for (const char* name : kReserved) json.erase(name);
  event.fields = std::move(json);
  return event;
}

struct MetricsWriter::Impl {
  std::string name;
  Descriptor file;
  std::mutex mutex;

  void append(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = ::write(file.get(), text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      check<ResourceError>(written >= 0,
                           fmt::format("{}: cannot be written: {}", name, std::strerror(errno)));
      text.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  /// Whether the file ends within a line.
  [[nodiscard]] bool is_torn() const {
    const off_t size = ::lseek(file.get(), 0, SEEK_END);
    char last = '\n';
    return size > 0 && ::pread(file.get(), &last, 1, size - 1) == 1 && last != '\n';
  }
};

MetricsWriter::MetricsWriter(const std::filesystem::path& file) : impl_(std::make_unique<Impl>()) {
  impl_->name = file.string();
  impl_->file = Descriptor(::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  check<ResourceError>(static_cast<bool>(impl_->file),
                       fmt::format("{}: cannot be opened: {}", impl_->name, std::strerror(errno)));
  if (impl_->is_torn()) impl_->append("\n");
}

MetricsWriter::~MetricsWriter() = default;

void MetricsWriter::write(const Event& event) {
  const std::string line = to_json(event) + "\n";
  const std::lock_guard lock(impl_->mutex);
  impl_->append(line);
}

}  // namespace fedspallm::report
