// SPDX-License-Identifier: Apache-2.0
// Purpose: what one client needs to go on from a position of the run: its hidden states before a block,
// exactly as they were in memory. One file per position, PATH.part until it is whole and durable; header and
// payload have checksums, and the run's identity keeps files of other runs out. Keyed by client, never by
// rank, so that a run can go on with any number of ranks (rulings.md 19). Plain binary, not HDF5: a state is
// written once, read once and deleted, straight from the tensor without a second copy in memory. Non-goals:
// which positions are worth keeping (app/checkpoint.hpp), masks and weights (run_store.hpp).
#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::store {

/// A place between two blocks: `block` of `round` is the next one to be done.
struct Position {
  std::uint32_t round = 1;
  std::uint32_t block = 0;
  friend auto operator<=>(const Position&, const Position&) = default;
};

class StateStore {
 public:
  /// @param folder  of this client alone; made by the first write
  /// @param run_id  a random number that the run was given when it was first started
  StateStore(std::filesystem::path folder, std::uint64_t run_id);
  /// RUN_DIR/state/NAME (NAME: client_file_name).
  [[nodiscard]] static StateStore of_client(const std::filesystem::path& run_dir, const std::string& name,
                                            std::uint64_t run_id);

  /// A state being written: rows x columns floats, row by row, in pieces.
  class Writing {
   public:
    void append(std::span<const float> values);
    /// Completes the header. @pre all rows were appended
    void close();
    /// fsync and rename: from here on the state is there. Any thread. @pre closed
    void publish();

   private:
    friend class StateStore;
    Writing(std::filesystem::path path, std::uint64_t run_id, Position position, std::int64_t rows,
            std::int64_t columns);
    struct Impl;
    std::shared_ptr<Impl> impl_;
  };
  /// @throws ResourceError naming the file (a full disk, for one)
  [[nodiscard]] Writing begin(Position position, std::int64_t rows, std::int64_t columns);

  /// Positions with a file of this run, ascending; whether they are sound is seen by verify().
  [[nodiscard]] std::vector<Position> positions() const;
  /// Whether the state is there, whole, of this run and of this shape.
  [[nodiscard]] bool verify(Position position, std::int64_t rows, std::int64_t columns) const;
  /// Hands out the rows in pieces of at most `piece_rows`. @throws DataError when verify() would say no
  void read(Position position, std::int64_t rows, std::int64_t columns, std::int64_t piece_rows,
            const std::function<void(std::int64_t first_row, std::span<const float>)>& take) const;

  /// Removes every state older than the newest one that is not after `position`.
  void forget_before(Position position);
  /// Removes every state after `position`: what they hold is computed anew.
  void forget_after(Position position);
  /// Removes the state at this position, if there is one.
  void remove(Position position);
  /// Removes every state, whatever run it is of.
  void clear();

 private:
  [[nodiscard]] std::filesystem::path file(Position position) const;
  std::filesystem::path folder_;
  std::uint64_t run_id_;
};

}  // namespace fedspallm::store
