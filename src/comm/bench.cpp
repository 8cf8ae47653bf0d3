// SPDX-License-Identifier: Apache-2.0
// Every method starts from the same packed updates in memory and ends with merged tiles at the root, so that
// their seconds can be compared: the collectives of MPI get a local merge before, as our own chain has.
#include "fedspallm/comm/bench.hpp"

#include "fedspallm/base/hash.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/comm/exchange.hpp"

#include <mpi.h>

#include "mpi_check.hpp"
#include "mpi_handles.hpp"
#include "plan_index.hpp"
#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>

namespace fedspallm::comm {

namespace {

using aggregate::PartialMerge;
using aggregate::Tile;
using Clock = std::chrono::steady_clock;

constexpr float kLargest = 1.0F;
constexpr int kLinkTag = 33;
constexpr std::int64_t kLinkBytes = 8 << 20;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

ExchangePlan make_plan(const TransportBenchOptions& options, int ranks) {
  ExchangePlan plan;
  for (int client = 0; client < ranks * options.clients_per_rank; ++client)
    plan.rank_of_client.push_back(client % ranks);
  for (int matrix = 0; matrix < options.units; ++matrix) {
    PlannedUnit unit;
    unit.id = {1, 0, static_cast<std::uint32_t>(matrix)};
    unit.name = fmt::format("matrix{}", matrix);
    unit.rows = options.rows;
    unit.cols = options.cols;
    unit.dtype = DType::bf16;
    unit.diagonal_unit = static_cast<std::size_t>(matrix);
    for (std::uint32_t client = 0; client < plan.rank_of_client.size(); ++client)
      unit.clients.push_back(client);
    plan.units.push_back(unit);
  }
  return plan;
}

/// Half of the weights kept at random, values in (-1, 1]; one of them is 1, so that every method has the same
/// scale.
wire::PackedMatrix make_matrix(const TransportBenchOptions& options, std::uint32_t client) {
  const auto size = static_cast<std::size_t>(options.rows * options.cols);
  std::vector<float> dense(size);
  std::vector<std::uint8_t> kept(size);
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < size; ++i) {
    bits = i % 4 == 0 ? random_bits({.seed = 11, .use = RandomUse::simulation, .client = client}, i / 4)
                      : bits >> 16;
    kept[i] = i == 0 || (bits & 1) != 0 ? 1 : 0;
    dense[i] =
        i == 0 ? kLargest : static_cast<float>(static_cast<std::int64_t>(bits >> 1 & 0xff) - 127) / 128.0F;
  }
  return wire::pack(options.rows, options.cols, DType::bf16, dense, kept);
}

class Bench {
 public:
  Bench(Communicator& comm, const TransportBenchOptions& options)
      : comm_(comm), options_(options), plan_(make_plan(options, comm.size())) {
    for (std::uint32_t client = 0; client < plan_.rank_of_client.size(); ++client) {
      if (plan_.rank_of_client[client] == comm.rank()) own_.emplace(client, make_matrix(options, client));
    }
  }

  TransportBench run() {
    TransportBench bench;
    bench.ranks = comm_.size();
    bench.weights = options_.rows * options_.cols;
    bench.link_gigabytes_per_second = link_rate();
    measure_merging(bench);
    const std::int64_t tiles = tile_count() * static_cast<std::int64_t>(sizeof(Tile));
    const std::int64_t reduced = comm_.size() > 1 ? tiles : 0;
    std::int64_t gathered = 0;
    if (comm_.size() > 1) {
      const std::int64_t remote = options_.clients_per_rank * (comm_.size() - 1);
      gathered = remote * wire::encoded_bytes(options_.rows, options_.cols, own_.begin()->second.kept,
                                              DType::bf16, false);
    }
    measure(bench, "gather", gathered, [&] { return by_exchange(Transport::gather); });
    measure(bench, "reduce (our chain)", reduced, [&] { return by_exchange(Transport::reduce); });
    measure(bench, "MPI_Reduce, whole", reduced, [&] { return by_mpi(tile_count(), false); });
    const std::int64_t chunk =
        std::max<std::int64_t>(1, options_.chunk_bytes / static_cast<std::int64_t>(sizeof(Tile)));
    measure(bench, "MPI_Reduce, chunks", reduced, [&] { return by_mpi(chunk, false); });
    measure(bench, "MPI_Ireduce, whole", reduced, [&] { return by_mpi(tile_count(), true); });
    return bench;
  }

 private:
  [[nodiscard]] std::int64_t tile_count() const {
    return (options_.rows * options_.cols + aggregate::kTile - 1) / aggregate::kTile;
  }
  [[nodiscard]] aggregate::FixedPoint scale() const {
    return aggregate::FixedPoint::covering(kLargest, static_cast<std::int64_t>(plan_.rank_of_client.size()));
  }

  /// Seconds of the slowest rank; `method` returns a checksum of the last matrix' tiles at the root.
  void measure(TransportBench& bench, const std::string& name, std::int64_t root_bytes,
               const std::function<std::uint64_t()>& method) {
    std::vector<double> seconds;
    std::uint64_t bits = 0;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      comm_.barrier();
      const auto start = Clock::now();
      bits = method();
      seconds.push_back(
          static_cast<double>(comm_.maximum(static_cast<std::int64_t>(seconds_since(start) * 1e9))) * 1e-9);
    }
    TransportTiming timing;
    timing.name = name;
    timing.root_bytes = root_bytes;
    timing.seconds = median(seconds) / options_.units;
    timing.gigabytes_per_second = static_cast<double>(root_bytes) / timing.seconds * 1e-9;
    if (bench.link_gigabytes_per_second > 0)
      timing.of_link = timing.gigabytes_per_second / bench.link_gigabytes_per_second;
    if (bench.timings.empty()) first_bits_ = bits;
    timing.same_bits = bits == first_bits_;
    bench.timings.push_back(timing);
  }

  static std::uint64_t bits_of(const PartialMerge& merge) { return checksum(std::as_bytes(merge.tiles())); }

  std::uint64_t by_exchange(Transport transport) {
    std::uint64_t bits = 0;
    ExchangeOptions options;
    options.transport = transport;
    options.chunk_bytes = options_.chunk_bytes;
    Exchange exchange(comm_, plan_, options, [&](const CompletedUnit& unit) {
      if (unit.index + 1 == plan_.units.size()) bits = bits_of(*unit.merge);
    });
    for (std::size_t index = 0; index < plan_.units.size(); ++index) {
      for (const auto& [client, matrix] : own_) {
        wire::MatrixUpdate update;
        update.unit = plan_.units[index].id;
        update.client = client;
        update.matrix = matrix;
        exchange.submit(index, std::move(update));
      }
    }
    exchange.finish();
    return bits;
  }

  PartialMerge merged_here() const {
    PartialMerge merge(options_.rows, options_.cols, scale(), aggregate::FixedPoint::covering(0, 1));
    std::vector<const wire::PackedMatrix*> matrices;
    for (const auto& [client, matrix] : own_) matrices.push_back(&matrix);
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

  double link_rate() {
    if (comm_.size() == 1) return 0;
    std::vector<std::byte> bytes(static_cast<std::size_t>(kLinkBytes));
    std::vector<double> seconds;
    constexpr int kMessages = 8;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      comm_.barrier();
      const auto start = Clock::now();
      for (int message = 0; message < kMessages; ++message) {
        const int count = checked_count(kLinkBytes);
        if (comm_.rank() == 1)
          check_mpi(MPI_Send(bytes.data(), count, MPI_BYTE, 0, kLinkTag, comm_of(comm_)), "MPI_Send");
        if (comm_.rank() == 0) {
          check_mpi(MPI_Recv(bytes.data(), count, MPI_BYTE, 1, kLinkTag, comm_of(comm_), MPI_STATUS_IGNORE),
                    "MPI_Recv");
        }
      }
      seconds.push_back(seconds_since(start));
    }
    return static_cast<double>(kLinkBytes * kMessages) / median(seconds) * 1e-9;
  }

  /// The two rates of one core that the cost model uses; alone on the root, while the others wait asleep.
  void measure_merging(TransportBench& bench) {
    if (comm_.rank() == 0) {
      PartialMerge merge(options_.rows, options_.cols, scale(), aggregate::FixedPoint::covering(0, 1));
      const PartialMerge other = merge;
      std::vector<double> add, tiles;
      for (int repeat = 0; repeat < options_.repeats; ++repeat) {
        auto start = Clock::now();
        merge.add(own_.begin()->second);
        add.push_back(seconds_since(start));
        start = Clock::now();
        aggregate::add_tiles(other.tiles(), merge.tiles());
        tiles.push_back(seconds_since(start));
      }
      bench.merge_seconds_per_weight = median(add) / static_cast<double>(bench.weights);
      bench.tiles_seconds_per_byte =
          median(tiles) / static_cast<double>(tile_count() * static_cast<std::int64_t>(sizeof(Tile)));
    }
    comm_.barrier();
  }

  Communicator& comm_;
  TransportBenchOptions options_;
  ExchangePlan plan_;
  std::map<std::uint32_t, wire::PackedMatrix> own_;  // by client; the same for every unit
  TileReduction reduction_;
  std::uint64_t first_bits_ = 0;
};

}  // namespace

TransportBench bench_transports(Communicator& communicator, const TransportBenchOptions& options) {
  require(options.rows >= 1 && options.cols >= 1, "bench_transports: rows, cols >= 1");
  require(options.clients_per_rank >= 1 && options.units >= 1 && options.repeats >= 1,
          "bench_transports: clients_per_rank, units, repeats >= 1");
  require(options.chunk_bytes >= 1, "bench_transports: chunk_bytes >= 1");
  return Bench(communicator, options).run();
}

std::string to_text(const TransportBench& bench) {
  std::string text = fmt::format(
      "{} ranks, {} weights a matrix; plain messages {:.2f} GB/s; one core adds an update at {:.2f} ns a "
      "weight, tiles at {:.2f} GB/s\n",
      bench.ranks, bench.weights, bench.link_gigabytes_per_second, bench.merge_seconds_per_weight * 1e9,
      bench.tiles_seconds_per_byte > 0 ? 1e-9 / bench.tiles_seconds_per_byte : 0.0);
  text += fmt::format("{:<22}{:>12}{:>14}{:>10}{:>10}  {}\n", "", "ms/matrix", "MB to root", "GB/s",
                      "of link", "bits");
  for (const TransportTiming& timing : bench.timings) {
    text += fmt::format("{:<22}{:>12.2f}{:>14.2f}{:>10.2f}{:>9.0f}%  {}\n", timing.name, timing.seconds * 1e3,
                        static_cast<double>(timing.root_bytes) * 1e-6, timing.gigabytes_per_second,
                        timing.of_link * 100, timing.same_bits ? "same" : "DIFFERENT");
  }
  return text;
}

}  // namespace fedspallm::comm
