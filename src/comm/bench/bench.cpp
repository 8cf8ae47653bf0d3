// SPDX-License-Identifier: Apache-2.0
// Every method starts from the same packed updates in memory and ends with merged tiles at the root, so that
// their seconds can be compared: the collectives of MPI get a local merge before, as our own chain has.
#include "fedspallm/comm/bench.hpp"

#include "fedspallm/aggregate/shared_merge.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/base/rounding.hpp"

#include <mpi.h>

#include "../mpi_check.hpp"
#include "../mpi_handles.hpp"
#include "bench_parts.hpp"
#include <algorithm>
#include <functional>
#include <map>

namespace fedspallm::comm {

namespace {

using aggregate::PartialMerge;
using aggregate::Tile;

class Bench {
 public:
  Bench(Communicator& comm, const TransportBenchOptions& options)
      : comm_(comm),
        options_(options),
        plan_(make_bench_plan({.rows = options.rows,
                               .cols = options.cols,
                               .clients = options.clients_per_rank * comm.size(),
                               .units = options.units},
                              comm.size())) {
    for (std::uint32_t client = 0; client < plan_.rank_of_client.size(); ++client) {
      if (plan_.rank_of_client[client] == comm.rank())
        matrices_.emplace(client, bench_matrix(options.rows, options.cols, client));
    }
    for (const auto& [client, matrix] : matrices_) own_.emplace(client, &matrix);
    bench_.ranks = comm.size();
    bench_.clients = static_cast<int>(plan_.rank_of_client.size());
    bench_.rows = options.rows;
    bench_.cols = options.cols;
  }

  TransportBench run() {
    bench_.copy_bytes_per_second = copy_rate(options_.repeats);
    bench_.link_bytes_per_second = link_rate(comm_, options_.repeats);
    measure_adding();
    const std::int64_t update =
        wire::encoded_bytes(options_.rows, options_.cols, matrices_.begin()->second.kept, DType::bf16, false);
    bench_.update_bytes = update * bench_.clients;
    const std::int64_t remote = options_.clients_per_rank * (comm_.size() - 1);
    measure("gather", update * remote, bench_.clients, [&] { return by_exchange(Transport::gather); });
    const auto measure_sums = [&](const char* name, const std::function<std::uint64_t()>& method) {
      measure(name, comm_.size() > 1 ? tiles_bytes() : 0, options_.clients_per_rank, method);
    };
    measure_sums("reduce (our chain)", [&] { return by_exchange(Transport::reduce); });
    measure_nodes();
    measure_sums("MPI_Reduce, whole", [&] { return by_mpi(tile_count(), false); });
    const std::int64_t chunk =
        std::max<std::int64_t>(1, options_.chunk_bytes / static_cast<std::int64_t>(sizeof(Tile)));
    measure_sums("MPI_Reduce, chunks", [&] { return by_mpi(chunk, false); });
    measure_sums("MPI_Ireduce, whole", [&] { return by_mpi(tile_count(), true); });
    return bench_;
  }

 private:
  [[nodiscard]] std::int64_t tile_count() const {
    return divide_up(options_.rows * options_.cols, aggregate::kTile);
  }
  [[nodiscard]] std::int64_t tiles_bytes() const {
    return tile_count() * static_cast<std::int64_t>(sizeof(Tile));
  }
  [[nodiscard]] PartialMerge empty_merge() const {
    return {options_.rows, options_.cols,
            aggregate::FixedPoint::covering(kBenchLargest, std::int64_t{bench_.clients}),
            aggregate::FixedPoint::covering(0, 1)};
  }

  /// `method` returns a checksum of the last matrix' tiles at the root. `updates`: that one rank has to add.
  void measure(const std::string& name, std::int64_t root_bytes, int updates,
               const std::function<std::uint64_t()>& method) {
    std::uint64_t bits = 0;
    TransportTiming row;
    row.name = name;
    row.root_bytes = root_bytes;
    row.timing.seconds = slowest_seconds(comm_, options_.repeats, [&] { bits = method(); }) / options_.units;
    if (comm_.size() > 1 && bench_.link_bytes_per_second > 0)
      row.timing.link_seconds = static_cast<double>(root_bytes) / bench_.link_bytes_per_second;
    const bool sums = name != "gather" && root_bytes > 0;
    row.timing.core_seconds =
        static_cast<double>(options_.rows * options_.cols * updates) * bench_.add_seconds_per_weight +
        (sums ? static_cast<double>(tiles_bytes()) * bench_.add_tiles_seconds_per_byte : 0);
    if (bench_.timings.empty()) first_bits_ = bits;
    row.same_bits = bits == first_bits_;
    bench_.timings.push_back(row);
  }

  static std::uint64_t bits_of(const PartialMerge& merge) { return checksum(std::as_bytes(merge.tiles())); }

  /// Where hosts have several ranks, and memory for them to share. On one host no sums travel.
  void measure_nodes() {
    ExchangeOptions options;
    options.leaders = comm_.host_leaders();
    if (!any_shared(options.leaders)) return;
    try {
      options.node_memory = std::make_shared<NodeMemory>(
          comm_, options.leaders, aggregate::SharedMerge::bytes(options_.rows, options_.cols));
    } catch (const Error& error) {
      if (error.status() != ExitStatus::no_resources) throw;
      return;
    }
    options.topology = Topology::nodes;
    options.transport = Transport::reduce;
    const bool one_host = std::ranges::count(options.leaders, 0) == comm_.size();
    measure("nodes (shared memory)", one_host ? 0 : tiles_bytes(), options_.clients_per_rank,
            [&] { return by_exchange(options); });
  }

  std::uint64_t by_exchange(Transport transport) {
    ExchangeOptions options;
    options.transport = transport;
    return by_exchange(options);
  }

  std::uint64_t by_exchange(ExchangeOptions options) {
    std::uint64_t bits = 0;
    options.chunk_bytes = options_.chunk_bytes;
    run_exchange(comm_, plan_, options, own_, [&](const CompletedUnit& unit) {
      if (unit.index + 1 == plan_.units.size()) bits = bits_of(*unit.merge);
    });
    return bits;
  }

  PartialMerge merged_here() const {
    PartialMerge merge = empty_merge();
    std::vector<const wire::PackedMatrix*> matrices;
    for (const auto& [client, matrix] : own_) matrices.push_back(matrix);
    merge.add(matrices);
    return merge;
  }

  std::uint64_t by_mpi(std::int64_t chunk, bool nonblocking) {
    std::uint64_t bits = 0;
    for (int unit = 0; unit < options_.units; ++unit) {
      PartialMerge merge = merged_here();
      const std::span<Tile> tiles = merge.tiles();
      for (std::size_t begin = 0; begin < tiles.size(); begin += static_cast<std::size_t>(chunk)) {
        const std::size_t count = std::min(tiles.size() - begin, static_cast<std::size_t>(chunk));
        reduce_by_mpi(tiles.subspan(begin, count), nonblocking);
      }
      if (unit + 1 == options_.units) bits = bits_of(merge);
    }
    return bits;
  }

  void reduce_by_mpi(std::span<Tile> tiles, bool nonblocking) {
    const int count = checked_count(static_cast<std::int64_t>(tiles.size()));
    const bool root = comm_.rank() == 0;
    const void* from = root ? MPI_IN_PLACE : static_cast<const void*>(tiles.data());
    void* into = root ? tiles.data() : nullptr;
    const MPI_Comm comm = comm_of(comm_);
    if (!nonblocking) {
      check_mpi(MPI_Reduce(from, into, count, reduction_.type(), reduction_.operation(), 0, comm),
                "MPI_Reduce");
      return;
    }
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ireduce(from, into, count, reduction_.type(), reduction_.operation(), 0, comm, &request),
              "MPI_Ireduce");
    check_mpi(MPI_Wait(&request, MPI_STATUS_IGNORE), "MPI_Wait");
  }

  /// The two rates of one core that the cost model uses; alone on the root, while the others wait asleep.
  void measure_adding() {
    if (comm_.rank() == 0) {
      PartialMerge merge = empty_merge();
      const PartialMerge other = merge;
      std::vector<double> add, tiles;
      for (int repeat = 0; repeat < options_.repeats; ++repeat) {
        auto start = BenchClock::now();
        merge.add(matrices_.begin()->second);
        add.push_back(seconds_since(start));
        start = BenchClock::now();
        aggregate::add_tiles(other.tiles(), merge.tiles());
        tiles.push_back(seconds_since(start));
      }
      bench_.add_seconds_per_weight = median(add) / static_cast<double>(options_.rows * options_.cols);
      bench_.add_tiles_seconds_per_byte = median(tiles) / static_cast<double>(tiles_bytes());
    }
    comm_.barrier();
  }

  Communicator& comm_;
  TransportBenchOptions options_;
  ExchangePlan plan_;
  std::map<std::uint32_t, wire::PackedMatrix> matrices_;  // by client; the same for every unit
  OwnMatrices own_;
  TileReduction reduction_;
  TransportBench bench_;
  std::uint64_t first_bits_ = 0;
};

}  // namespace

std::string Timing::limit() const {
  return link_seconds > core_seconds ? "plain messages" : "one core adding";
}

double Timing::limit_seconds() const {
  return std::max(link_seconds, core_seconds);
}

TransportBench bench_transports(Communicator& communicator, const TransportBenchOptions& options) {
  require(options.rows >= 1 && options.cols >= 1, "bench_transports: rows, cols >= 1");
  require(options.clients_per_rank >= 1 && options.units >= 1 && options.repeats >= 1,
          "bench_transports: clients_per_rank, units, repeats >= 1");
  require(options.chunk_bytes >= 1, "bench_transports: chunk_bytes >= 1");
  return Bench(communicator, options).run();
}

}  // namespace fedspallm::comm
