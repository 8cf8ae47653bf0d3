// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/state_store.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/store/run_store.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include "file_io.hpp"
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <string>

namespace fedspallm::store {

namespace {

constexpr std::uint64_t kMagic = 0x455441'5453'505346;  // "FSPSTATE", little endian
constexpr std::uint32_t kStateVersion = 1;

/// The file's first 64 bytes; the payload follows.
struct Header {
  std::uint64_t magic = kMagic;
  std::uint32_t version = kStateVersion;
  std::uint32_t round = 0;
  std::uint32_t block = 0;
  std::uint32_t reserved = 0;
  std::uint64_t run_id = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::uint64_t payload_checksum = 0;
  std::uint64_t header_checksum = 0;  // of the bytes before it
};
static_assert(sizeof(Header) == 64 && std::is_trivially_copyable_v<Header>);

std::uint64_t own_checksum(const Header& header) {
  return checksum(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, header_checksum)));
}

void read_at(const Descriptor& file, std::int64_t offset, std::span<std::byte> bytes,
             const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(file.get(), bytes.data(), bytes.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    check<DataError>(got > 0, fmt::format("{}: ends early", path.string()));
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
}

/// @throws DataError unless the header is sound, of this run, position and shape, and the file has its size
Header read_header(const Descriptor& file, const std::filesystem::path& path, const Header& expected) {
  Header found;
  read_at(file, 0, std::as_writable_bytes(std::span(&found, 1)), path);
  check<DataError>(found.magic == kMagic && found.header_checksum == own_checksum(found),
                   fmt::format("{}: is damaged, or no state of a client", path.string()));
  check<DataError>(found.version == kStateVersion, fmt::format("{}: format_version {}, expected {}",
                                                               path.string(), found.version, kStateVersion));
  const bool same = found.run_id == expected.run_id && found.round == expected.round &&
                    found.block == expected.block && found.rows == expected.rows &&
                    found.columns == expected.columns;
  check<DataError>(same, fmt::format("{}: is of another run, position or shape", path.string()));
  struct stat status {};
  check<DataError>(::fstat(file.get(), &status) == 0 &&
                       status.st_size == static_cast<off_t>(sizeof(Header)) + found.rows * found.columns * 4,
                   fmt::format("{}: has not the size its header tells", path.string()));
  return found;
}

}  // namespace

// --- writing

struct StateStore::Writing::Impl {
  std::filesystem::path path;
  Header header;
  Descriptor file;
  RunningChecksum sum;
  std::int64_t written = 0;  // floats
  bool closed = false;
};

StateStore::Writing::Writing(std::filesystem::path path, std::uint64_t run_id, Position position,
                             std::int64_t rows, std::int64_t columns)
    : impl_(std::make_shared<Impl>()) {
  require(rows >= 0 && columns > 0, "StateStore::begin: rows >= 0, columns > 0");
  impl_->path = std::move(path);
  impl_->header.run_id = run_id;
  impl_->header.round = position.round;
  impl_->header.block = position.block;
  impl_->header.rows = rows;
  impl_->header.columns = columns;
  impl_->file = create_file(part_path(impl_->path));
}

void StateStore::Writing::append(std::span<const float> values) {
  require(!impl_->closed, "StateStore: append before close");
  const auto bytes = std::as_bytes(values);
  write_at(impl_->file, static_cast<std::int64_t>(sizeof(Header)) + impl_->written * 4, bytes,
           part_path(impl_->path));
  impl_->sum.add(bytes);
  impl_->written += static_cast<std::int64_t>(values.size());
}

void StateStore::Writing::close() {
  Header& header = impl_->header;
  require(impl_->written == header.rows * header.columns, "StateStore: close after the last row");
  header.payload_checksum = impl_->sum.value();
  header.header_checksum = own_checksum(header);
  write_at(impl_->file, 0, std::as_bytes(std::span(&header, 1)), part_path(impl_->path));
  impl_->closed = true;
}

void StateStore::Writing::publish() {
  require(impl_->closed, "StateStore: publish after close");
  impl_->file.reset();
  publish_file(part_path(impl_->path), impl_->path);
}

// --- the folder

StateStore::StateStore(std::filesystem::path folder, std::uint64_t run_id)
    : folder_(std::move(folder)), run_id_(run_id) {}

StateStore StateStore::of_client(const std::filesystem::path& run_dir, const std::string& name,
                                 std::uint64_t run_id) {
  return {run_dir / "state" / client_file_name(name), run_id};
}

std::filesystem::path StateStore::file(Position position) const {
  return folder_ / fmt::format("r{:02}-b{:04}.state", position.round, position.block);
}

StateStore::Writing StateStore::begin(Position position, std::int64_t rows, std::int64_t columns) {
  make_folders(folder_);
  return {file(position), run_id_, position, rows, columns};
}

std::vector<Position> StateStore::positions() const {
  std::vector<Position> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder_, error), end; !error && entry != end;
       entry.increment(error)) {
    Position position;
    int length = 0;
    const std::string name = entry->path().filename().string();
    // NOLINTNEXTLINE(cert-err34-c): the length tells whether the whole name was understood
    if (std::sscanf(name.c_str(), "r%9u-b%9u.state%n", &position.round, &position.block, &length) == 2 &&
        length == static_cast<int>(name.size()) && file(position).filename() == name)
      found.push_back(position);
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool StateStore::verify(Position position, std::int64_t rows, std::int64_t columns) const {
  constexpr std::int64_t kPieceRows = 1024;
  try {
    read(position, rows, columns, kPieceRows, [](std::int64_t, std::span<const float>) {});
    return true;
  } catch (const Error&) {  // missing, unreadable or damaged: the same to the caller
    return false;
  }
}

void StateStore::read(Position position, std::int64_t rows, std::int64_t columns, std::int64_t piece_rows,
                      const std::function<void(std::int64_t, std::span<const float>)>& take) const {
  require(piece_rows > 0, "StateStore::read: piece_rows > 0");
  const std::filesystem::path path = file(position);
  const Descriptor in = open_file(path);
  Header expected;
  expected.run_id = run_id_;
  expected.round = position.round;
  expected.block = position.block;
  expected.rows = rows;
  expected.columns = columns;
  const Header header = read_header(in, path, expected);
  RunningChecksum sum;
  std::vector<float> piece;
  for (std::int64_t first = 0; first < rows; first += piece_rows) {
    piece.resize(static_cast<std::size_t>(std::min(piece_rows, rows - first) * columns));
    read_at(in, static_cast<std::int64_t>(sizeof(Header)) + first * columns * 4,
            std::as_writable_bytes(std::span(piece)), path);
    sum.add(std::as_bytes(std::span(piece)));
    take(first, piece);
  }
  check<DataError>(sum.value() == header.payload_checksum,
                   fmt::format("{}: its checksum differs from its content", path.string()));
}

void StateStore::forget_before(Position position) {
  const std::vector<Position> all = positions();
  const auto after = std::upper_bound(all.begin(), all.end(), position);
  if (after == all.begin()) return;
  for (auto old = all.begin(); old != after - 1; ++old) remove_path(file(*old));
}

void StateStore::forget_after(Position position) {
  for (const Position each : positions())
    if (each > position) remove_path(file(each));
}

void StateStore::remove(Position position) {
  remove_path(file(position));
}

void StateStore::clear() {
  remove_path(folder_);
}

}  // namespace fedspallm::store
