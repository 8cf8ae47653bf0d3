// SPDX-License-Identifier: Apache-2.0
#include "run_lock_lease.hpp"

#include "fedspallm/base/error.hpp"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "file_io.hpp"
#include <array>
#include <cerrno>
#include <span>

namespace fedspallm::store {

namespace {

constexpr int kFormatVersion = 1;
constexpr std::size_t kLargestLease = 65536;
/// PBS and LSF do not count a job's starts. An equal job elsewhere is an earlier start of it, unless it
/// renews its lease (every 5 s): then two commands of one job want one directory.
constexpr double kSilentSeconds = 15;

double seconds_of(const timespec& time) {
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

[[noreturn]] void fail(const std::filesystem::path& path, std::string_view doing) {
  throw ResourceError(errno_message(path, doing));
}

std::string content_of(const Descriptor& file, const std::filesystem::path& path) {
  std::string text;
  std::array<char, 4096> piece{};
  while (text.size() <= kLargestLease) {
    const ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "cannot be read");
    if (got == 0) break;
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
  return text;
}

}  // namespace

std::string encode_lease(const Lease& lease) {
  const nlohmann::ordered_json json = {
      {"format_version", kFormatVersion},
      {"host", lease.holder.process.host},
      {"pid", lease.holder.process.pid},
      {"start_time", lease.holder.process.start_time},
      {"node", lease.holder.process.node},
      {"job", lease.holder.job},
      {"restarts", lease.holder.restarts},
      {"launch", lease.holder.launch},
      {"since", lease.since},
  };
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::optional<Lease> decode_lease(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    if (json.at("format_version").get<int>() != kFormatVersion) return std::nullopt;
    Lease lease;
    lease.holder.process.host = json.at("host").get<std::string>();
    lease.holder.process.pid = json.at("pid").get<std::int64_t>();
    lease.holder.process.start_time = json.at("start_time").get<std::uint64_t>();
    lease.holder.process.node = json.at("node").get<std::string>();
    lease.holder.job = json.at("job").get<std::string>();
    lease.holder.restarts = json.at("restarts").get<std::int64_t>();
    lease.holder.launch = json.at("launch").get<std::string>();
    lease.since = json.at("since").get<std::string>();
    return lease;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::string stale_reason(const SeenLease& seen, const LockHolder& self, double now, double stale_seconds) {
  const double age = now - seen.modified;
  if (seen.lease) {
    const LockHolder& holder = seen.lease->holder;
    if (on_this_node(holder.process) && !is_alive(holder.process))
      return fmt::format("process {} on {} is dead", holder.process.pid, holder.process.host);
    if (!self.job.empty() && holder.job == self.job && holder.restarts < self.restarts)
      return fmt::format("job {} was started again", self.job);
    if (!self.job.empty() && holder.job == self.job && !on_this_node(holder.process) && age > kSilentSeconds)
      return fmt::format("job {} was started again on another host: process {} on {} is silent for {:.0f} s",
                         self.job, holder.process.pid, holder.process.host, age);
  }
  if (age <= stale_seconds) return {};
  const std::string whose = seen.lease ? fmt::format("process {} on {}", seen.lease->holder.process.pid,
                                                     seen.lease->holder.process.host)
                                       : std::string("an unknown process");
  return fmt::format("{} has not renewed it for {:.0f} s", whose, age);
}

LeaseFile::LeaseFile(const std::filesystem::path& dir, Lease own)
    : path_(dir / ".lease.json"),
      draft_(dir / (".lease-" + own.holder.launch + ".part")),
      own_(std::move(own)) {}

LeaseFile::~LeaseFile() {
  ::unlink(draft_.c_str());
}

std::optional<SeenLease> LeaseFile::look() const {
  const Descriptor file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file && errno == ENOENT) return std::nullopt;
  if (!file) fail(path_, "cannot be opened for reading");
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path_, "cannot ask for its times");
  return SeenLease{decode_lease(content_of(file, path_)), seconds_of(status.st_mtim)};
}

bool LeaseFile::is_ours(const std::optional<SeenLease>& seen) const {
  return seen && seen->lease && seen->lease->holder.launch == own_.holder.launch;
}

void LeaseFile::write_draft() {
  const std::string text = encode_lease(own_);
  const Descriptor file = create_file(draft_);
  write_at(file, 0, std::as_bytes(std::span(text)), draft_);
  sync(file, draft_);
}

double LeaseFile::now() {
  if (::utimensat(AT_FDCWD, draft_.c_str(), nullptr, 0) != 0) {
    if (errno != ENOENT) fail(draft_, "cannot set its times");
    write_draft();
  }
  struct stat status {};
  if (::stat(draft_.c_str(), &status) != 0) fail(draft_, "cannot ask for its times");
  return seconds_of(status.st_mtim);
}

bool LeaseFile::take(bool replacing) {
  (void)now();  // the draft is there and young
  if (!replacing) {
    // link() makes the name only if it is free, on network file systems too.
    if (::link(draft_.c_str(), path_.c_str()) == 0) {
      ::unlink(draft_.c_str());
      return true;
    }
    if (errno == EEXIST) return false;
    // Some file systems have no hard links; there the name is looked at again after it was set.
    if (errno != EPERM && errno != ENOTSUP && errno != ENOSYS) fail(path_, "cannot be made");
  }
  if (::rename(draft_.c_str(), path_.c_str()) != 0) fail(path_, "cannot be put in place of its draft");
  return is_ours(look());
}

void LeaseFile::renew() const {
  if (::utimensat(AT_FDCWD, path_.c_str(), nullptr, 0) != 0) fail(path_, "cannot be renewed");
}

void LeaseFile::remove() const noexcept {
  ::unlink(path_.c_str());
}

}  // namespace fedspallm::store
