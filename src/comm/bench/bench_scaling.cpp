// SPDX-License-Identifier: Apache-2.0
// Each number of clients is measured from the first submitted update to the last finished merge. Clients
// share a few different matrices: each update is a copy, so that memory is touched as in a run, while 4096
// clients still fit.
#include "fedspallm/comm/bench.hpp"

#include "bench_parts.hpp"
#include <algorithm>
#include <ctime>

namespace fedspallm::comm {

namespace {

constexpr std::uint32_t kDifferent = 16;
constexpr int kMostClients = 4096;

/// Of all threads of this process.
double own_cpu_seconds() {
  timespec time{};
  require(::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0, "the process has a CPU clock");
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

class Scaling {
 public:
  Scaling(Communicator& comm, const ScalingBenchOptions& options) : comm_(comm), options_(options) {
    for (std::uint32_t i = 0; i < kDifferent; ++i)
      matrices_.push_back(bench_matrix(options.rows, options.cols, i));
  }

  std::vector<ScalingSeries> run() {
    link_ = link_rate(comm_, options_.repeats);
    measure_core();
    return {series(Transport::gather, "gather"), series(Transport::reduce, "reduce")};
  }

 private:
  /// Averages, votes and mask expansion, as a root does it after the last update.
  [[nodiscard]] std::int64_t finish(const aggregate::PartialMerge& merge, int clients) const {
    const aggregate::MergeRules rules{.tie = aggregate::TieRule::magnitude};  // needs no diagonal
    return aggregate::finish(merge, clients, rules, DType::bf16, {}).matrix.kept;
  }

  /// What one core needs to add one update and to finish; on the root, while the others wait asleep.
  void measure_core() {
    if (comm_.rank() == 0) {
      std::vector<double> add, end;
      const auto clients = static_cast<std::int64_t>(kDifferent);
      for (int repeat = 0; repeat < options_.repeats; ++repeat) {
        aggregate::PartialMerge merge(options_.rows, options_.cols,
                                      aggregate::FixedPoint::covering(kBenchLargest, clients),
                                      aggregate::FixedPoint::covering(0, 1));
        auto start = BenchClock::now();
        for (const wire::PackedMatrix& matrix : matrices_) merge.add(matrix);
        add.push_back(seconds_since(start) / kDifferent);
        start = BenchClock::now();
        require(finish(merge, static_cast<int>(clients)) > 0, "bench_scaling: something is kept");
        end.push_back(seconds_since(start));
      }
      add_seconds_ = median(add);
      finish_seconds_ = median(end);
    }
    comm_.barrier();
  }

  [[nodiscard]] OwnMatrices own(int clients) const {
    OwnMatrices mine;
    for (int client = comm_.rank(); client < clients; client += comm_.size()) {
      const auto index = static_cast<std::uint32_t>(client);
      mine.emplace(index, &matrices_[index % kDifferent]);
    }
    return mine;
  }

  [[nodiscard]] ScalingPoint point(Transport transport, int clients) {
    const ExchangePlan plan = make_bench_plan({.rows = options_.rows,
                                               .cols = options_.cols,
                                               .clients = clients,
                                               .units = options_.units,
                                               .one_block = false},
                                              comm_.size());
    ExchangeOptions exchange;
    exchange.transport = transport;
    const OwnMatrices mine = own(clients);
    std::int64_t kept = 0;
    ScalingPoint result;
    result.clients = clients;
    const double cpu_before = own_cpu_seconds();
    result.timing.seconds =
        slowest_seconds(comm_, options_.repeats,
                        [&] {
                          run_exchange(comm_, plan, exchange, mine, [&](const CompletedUnit& unit) {
                            kept += finish(*unit.merge, clients);
                          });
                        }) /
        options_.units;
    const auto own_nanoseconds = static_cast<std::int64_t>((own_cpu_seconds() - cpu_before) * 1e9);
    result.cpu_seconds =
        static_cast<double>(comm_.sum(own_nanoseconds)) * 1e-9 / (options_.repeats * options_.units);
    require(comm_.rank() != 0 || kept > 0, "bench_scaling: every merge was finished");
    const std::int64_t update =
        wire::encoded_bytes(options_.rows, options_.cols, matrices_.front().kept, DType::bf16, false);
    result.update_bytes = update * clients;
    set_limits(transport, update, result);
    return result;
  }

  /// gather: the root takes in and adds everything; reduce: its own clients and one stream of sums.
  void set_limits(Transport transport, std::int64_t update, ScalingPoint& point) const {
    const int own_clients = (point.clients + comm_.size() - 1) / comm_.size();
    const int remote = point.clients - own_clients;
    const bool gather = transport == Transport::gather;
    const double tiles = static_cast<double>(options_.rows * options_.cols) * sizeof(aggregate::Tile) /
                         static_cast<double>(aggregate::kTile);
    const double bytes = gather ? static_cast<double>(update * remote) : (remote > 0 ? tiles : 0);
    if (comm_.size() > 1 && link_ > 0) point.timing.link_seconds = bytes / link_;
    point.timing.core_seconds = (gather ? point.clients : own_clients) * add_seconds_ + finish_seconds_;
  }

  ScalingSeries series(Transport transport, const char* name) {
    ScalingSeries result;
    result.transport = name;
    std::vector<double> clients, seconds, cpu_seconds;
    for (const int number : options_.clients) {
      result.points.push_back(point(transport, number));
      clients.push_back(number);
      seconds.push_back(result.points.back().timing.seconds);
      cpu_seconds.push_back(result.points.back().cpu_seconds);
    }
    result.fit = fit_line(clients, seconds);
    result.cpu_fit = fit_line(clients, cpu_seconds);
    return result;
  }

  Communicator& comm_;
  ScalingBenchOptions options_;
  std::vector<wire::PackedMatrix> matrices_;
  double link_ = 0, add_seconds_ = 0, finish_seconds_ = 0;
};

}  // namespace

LineFit fit_line(std::span<const double> x, std::span<const double> y) {
  require(x.size() == y.size() && !x.empty(), "fit_line: as many x as y, at least one");
  require(std::all_of(y.begin(), y.end(), [](double value) { return value > 0; }), "fit_line: y > 0");
  double weights = 0, sum_x = 0, sum_y = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double weight = 1 / (y[i] * y[i]);
    weights += weight;
    sum_x += weight * x[i];
    sum_y += weight * y[i];
  }
  const double mean_x = sum_x / weights, mean_y = sum_y / weights;
  double products = 0, squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double weight = 1 / (y[i] * y[i]);
    products += weight * (x[i] - mean_x) * (y[i] - mean_y);
    squares += weight * (x[i] - mean_x) * (x[i] - mean_x);
  }
  LineFit fit;
  if (squares > 0) fit.per_unit = products / squares;
  fit.fixed = mean_y - fit.per_unit * mean_x;
  return fit;
}

std::vector<ScalingSeries> bench_scaling(Communicator& communicator, const ScalingBenchOptions& options) {
  require(options.rows >= 1 && options.cols >= 1, "bench_scaling: rows, cols >= 1");
  require(options.units >= 1 && options.repeats >= 1, "bench_scaling: units, repeats >= 1");
  const std::vector<int>& clients = options.clients;
  require(!clients.empty() && clients.front() >= 1 && clients.back() <= kMostClients &&
              std::is_sorted(clients.begin(), clients.end()),
          "bench_scaling: clients ascending, 1 to 4096");
  return Scaling(communicator, options).run();
}

}  // namespace fedspallm::comm
