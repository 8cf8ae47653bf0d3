// SPDX-License-Identifier: Apache-2.0
// Purpose: the lease file of run_lock.hpp: who holds a run directory, written whole, renewed by its
// modification time (which needs no disk space), its age measured by its own file system's clock.
// Non-goals: flock, waiting, threads.
#pragma once

#include "fedspallm/store/run_lock.hpp"

#include <filesystem>
#include <optional>
#include <string>

namespace fedspallm::store {

/// What a lease file says.
struct Lease {
  LockHolder holder;
  std::string since;  // UTC by the holder's clock; for people
};

[[nodiscard]] std::string encode_lease(const Lease& lease);
/// Nothing when it is no lease.
[[nodiscard]] std::optional<Lease> decode_lease(const std::string& text);

/// A lease file as it was found.
struct SeenLease {
  std::optional<Lease> lease;  // nothing: there is a file, but not a lease
  double modified = 0;         // seconds, by the file system's clock
};

/// "" or why the lease no longer holds, for people. `now` by the file system's clock.
[[nodiscard]] std::string stale_reason(const SeenLease& seen, const LockHolder& self, double now,
                                       double stale_seconds);

/// The lease file of one directory, as one process uses it.
class LeaseFile {
 public:
  LeaseFile(const std::filesystem::path& dir, Lease own);
  /// Removes what take() left unfinished; not the lease.
  ~LeaseFile();
  LeaseFile(const LeaseFile&) = delete;
  LeaseFile& operator=(const LeaseFile&) = delete;

  /// Nothing when there is no file. @throws ResourceError when it cannot be read
  [[nodiscard]] std::optional<SeenLease> look() const;
  [[nodiscard]] bool is_ours(const std::optional<SeenLease>& seen) const;
  /// The file system's time now. @throws ResourceError when the directory cannot be written
  [[nodiscard]] double now();
  /// Makes the lease ours: `replacing` a stale one, or only if there is none.
  /// @return whether it is ours now; false: somebody else was quicker. @throws ResourceError
  [[nodiscard]] bool take(bool replacing);
  /// Sets its time of modification. @throws ResourceError
  void renew() const;
  /// Removes it; errors are ignored: what stays grows stale.
  void remove() const noexcept;

 private:
  void write_draft();
  std::filesystem::path path_, draft_;
  Lease own_;
};

}  // namespace fedspallm::store
