// SPDX-License-Identifier: Apache-2.0
#include "bench_parts.hpp"

#include "fedspallm/base/random.hpp"
#include "fedspallm/comm/bench.hpp"

#include <mpi.h>

#include "../mpi_check.hpp"
#include <algorithm>
#include <cstring>

namespace fedspallm::comm {

namespace {

constexpr int kLinkTag = 33;
constexpr std::int64_t kLinkBytes = 8 << 20;
constexpr int kMessages = 8;  // in a row

}  // namespace

double seconds_since(BenchClock::time_point start) {
  return std::chrono::duration<double>(BenchClock::now() - start).count();
}

double median(std::vector<double> values) {
  require(!values.empty(), "median: of at least one value");
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double slowest_seconds(Communicator& communicator, int repeats, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    communicator.barrier();
    const auto start = BenchClock::now();
    work();
    const auto nanoseconds = static_cast<std::int64_t>(seconds_since(start) * 1e9);
    seconds.push_back(static_cast<double>(communicator.maximum(nanoseconds)) * 1e-9);
  }
  return median(seconds);
}

wire::PackedMatrix bench_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t client) {
  const auto size = static_cast<std::size_t>(rows * cols);
  std::vector<float> dense(size);
  std::vector<std::uint8_t> kept(size);
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < size; ++i) {
    bits = i % 4 == 0 ? random_bits({.seed = 11, .use = RandomUse::simulation, .client = client}, i / 4)
                      : bits >> 16;
    kept[i] = i == 0 || (bits & 1) != 0 ? 1 : 0;
    dense[i] = i == 0 ? kBenchLargest
                      : static_cast<float>(static_cast<std::int64_t>(bits >> 1 & 0xff) - 127) / 128.0F;
  }
  return wire::pack(rows, cols, DType::bf16, dense, kept);
}

ExchangePlan make_bench_plan(const BenchPlan& wanted, int ranks) {
  ExchangePlan plan;
  std::vector<std::uint32_t> clients;
  for (int client = 0; client < wanted.clients; ++client) {
    plan.rank_of_client.push_back(client % ranks);
    clients.push_back(static_cast<std::uint32_t>(client));
  }
  const ClientList shared(std::move(clients));
  for (int number = 0; number < wanted.units; ++number) {
    const auto index = static_cast<std::uint32_t>(number);
    PlannedUnit unit;
    unit.id = {1, wanted.one_block ? 0 : index, wanted.one_block ? index : 0};
    unit.name = fmt::format("matrix{}", number);
    unit.rows = wanted.rows;
    unit.cols = wanted.cols;
    unit.dtype = DType::bf16;
    unit.diagonal_unit = index;
    unit.clients = shared;
    plan.units.push_back(unit);
  }
  return plan;
}

void run_exchange(Communicator& communicator, const ExchangePlan& plan, const ExchangeOptions& options,
                  const OwnMatrices& own, const Exchange::OnCompleted& on_completed) {
  Exchange exchange(communicator, plan, options, on_completed);
  for (std::size_t index = 0; index < plan.units.size(); ++index) {
    for (const auto& [client, matrix] : own) {
      wire::MatrixUpdate update;
      update.unit = plan.units[index].id;
      update.client = client;
      update.matrix = *matrix;
      exchange.submit(index, std::move(update));
    }
  }
  exchange.finish();
}

double link_rate(Communicator& communicator, int repeats) {
  if (communicator.size() == 1) return 0;
  std::vector<std::byte> bytes(static_cast<std::size_t>(kLinkBytes));
  std::vector<double> seconds;
  const int count = checked_count(kLinkBytes);
  const MPI_Comm comm = comm_of(communicator);
  for (int repeat = 0; repeat < repeats; ++repeat) {
    communicator.barrier();
    const auto start = BenchClock::now();
    for (int message = 0; message < kMessages; ++message) {
      if (communicator.rank() == 1)
        check_mpi(MPI_Send(bytes.data(), count, MPI_BYTE, 0, kLinkTag, comm), "MPI_Send");
      if (communicator.rank() == 0)
        check_mpi(MPI_Recv(bytes.data(), count, MPI_BYTE, 1, kLinkTag, comm, MPI_STATUS_IGNORE), "MPI_Recv");
    }
    seconds.push_back(seconds_since(start));
  }
  return static_cast<double>(kLinkBytes * kMessages) / median(seconds);
}

LineFit measure_link(Communicator& communicator, int repeats) {
  require(repeats >= 1, "measure_link: repeats >= 1");
  if (communicator.size() == 1) return {};
  const MPI_Comm comm = comm_of(communicator);
  const int rank = communicator.rank();
  std::vector<double> sizes, seconds;
  for (std::int64_t size = 64; size <= kLinkBytes; size *= 8) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(size));
    std::vector<double> times;
    for (int message = 0; message < kMessages * repeats + 1; ++message) {  // the first one warms up
      const auto start = BenchClock::now();
      if (rank == 1) {
        check_mpi(MPI_Send(bytes.data(), checked_count(size), MPI_BYTE, 0, kLinkTag, comm), "MPI_Send");
        check_mpi(MPI_Recv(nullptr, 0, MPI_BYTE, 0, kLinkTag, comm, MPI_STATUS_IGNORE), "MPI_Recv");
      }
      if (rank == 0) {
        check_mpi(MPI_Recv(bytes.data(), checked_count(size), MPI_BYTE, 1, kLinkTag, comm, MPI_STATUS_IGNORE),
                  "MPI_Recv");
        check_mpi(MPI_Send(nullptr, 0, MPI_BYTE, 1, kLinkTag, comm), "MPI_Send");
      }
      if (message > 0) times.push_back(seconds_since(start));
    }
    sizes.push_back(static_cast<double>(size));
    seconds.push_back(*std::min_element(times.begin(), times.end()));  // the least disturbed one
  }
  communicator.barrier();
  if (rank != 0) return {};
  const LineFit line = fit_line(sizes, seconds);
  // On a busy machine small messages may take as long as large ones: then the ends have to do.
  if (line.per_unit > 0 && line.fixed > 0) return line;
  return {seconds.front(), seconds.back() / sizes.back()};
}

double copy_rate(int repeats) {
  const std::vector<std::byte> from(static_cast<std::size_t>(kLinkBytes), std::byte{1});
  std::vector<std::byte> into(from.size());
  std::vector<double> seconds;
  std::size_t copied = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto start = BenchClock::now();
    for (int message = 0; message < kMessages; ++message) {
      std::memcpy(into.data(), from.data(), from.size());
      copied += static_cast<std::size_t>(into[static_cast<std::size_t>(message)]);  // so that it is done
    }
    seconds.push_back(seconds_since(start));
  }
  require(copied == static_cast<std::size_t>(repeats * kMessages), "copy_rate: the bytes were copied");
  return static_cast<double>(kLinkBytes * kMessages) / median(seconds);
}

}  // namespace fedspallm::comm
