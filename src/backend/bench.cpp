// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/backend/bench.hpp"

#include "fedspallm/backend/structured.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"

#include "bench_timing.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <functional>

namespace fedspallm::backend {

namespace {

/// The limits of a backend that computes elsewhere than on the host's cores: its own largest product and a
/// stream over its memory.
double device_sgemm(Backend& backend, std::int64_t size) {
  const Tensor a = backend.allocate(size, size), b = backend.allocate(size, size),
               c = backend.allocate(size, size);
  for (const Tensor* tensor : {&a, &b}) backend.fill(*tensor, 0.5F);
  const double seconds = best_seconds([&] {
    backend.linear().linear(a, b, View(), c, false);
    backend.synchronize();
  });
  return 2.0 * std::pow(static_cast<double>(size), 3) / seconds;
}

double device_stream(Backend& backend, std::int64_t bytes) {
  const std::int64_t count = std::max<std::int64_t>(1, bytes / 8);
  const Tensor a = backend.allocate(1, count), b = backend.allocate(1, count);
  for (const Tensor* tensor : {&a, &b}) backend.fill(*tensor, 1.0F);
  const double seconds = best_seconds([&] {
    backend.model().add(a, b);  // two reads, one write
    backend.synchronize();
  });
  return 12.0 * static_cast<double>(count) / seconds;
}

class Bench {
 public:
  Bench(Backend& backend, const BenchOptions& options)
      : backend_(backend),
        options_(options),
        tokens_(options.sequences * options.sequence_length),
        sgemm_(backend.name() == "cuda" ? device_sgemm(backend, options.limit_size)
                                        : measure_sgemm(options.threads, options.limit_size)),
        bf16_(backend.products() == Products::bf16 && backend.name() == "cpu"
                  ? measure_bf16_products(options.threads)
                  : 0),
        triad_(backend.name() == "cuda" ? device_stream(backend, options.triad_bytes)
                                        : measure_triad(options.threads, options.triad_bytes)) {}

  void forward();
  void hessian();
  void factorization();
  void sweep();
  void spmm();
  void add_up();
  std::vector<BenchRow> rows;

 private:
  [[nodiscard]] Tensor random(std::int64_t row_count, std::int64_t cols) {
    RandomKey key;
    key.use = RandomUse::simulation;
    key.block = ++stream_;
    std::vector<float> values(static_cast<std::size_t>(row_count * cols));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<std::int32_t>(random_bits(key, i))) * 0x1p-31F;
    Tensor tensor = backend_.allocate(row_count, cols);
    backend_.copy_in(std::span<const float>(values), tensor);
    return tensor;
  }
  /// Times `work` (after `prepare`, untimed) and appends a row.
  void time(
      std::string name, std::string shape, int per_block, double work_done, std::string_view limit,
      const std::function<void()>& work, const std::function<void()>& prepare = [] {});
  void time_linear(const std::string& name, std::int64_t in, std::int64_t out, int per_block);
  void time_rows();
  void time_attention();
  void time_gram(const std::string& name, std::int64_t columns, int per_block);
  void time_factor(const std::string& name, std::int64_t columns, int per_block);
  void time_sweep(const std::string& name, std::int64_t out, std::int64_t in, int per_block);
  void time_spmm(const std::string& name, std::int64_t in, std::int64_t out);
  void time_structured(const std::string& name, const std::string& shape, const Tensor& x, std::int64_t out);
  /// `kept` of every `group` consecutive weights of a row stay, or (group = 0) a share of all by chance.
  void thin(const Tensor& w, double share, int kept, int group);
  /// A damped Hessian of random inputs and its factor U.
  [[nodiscard]] Tensor hessian_of(std::int64_t columns);
  void sweep_matrix(const View& w, const View& u, const View& diagonal, const View& score, const View& mask,
                    const View& error);

  Backend& backend_;
  BenchOptions options_;
  std::int64_t tokens_;
  /// What limits the products of activations: "sgemm", or "bf16" where they take such operands on a CPU.
  [[nodiscard]] const char* products() const { return bf16_ > 0 ? "bf16" : "sgemm"; }
  [[nodiscard]] double limit_rate(std::string_view limit) const {
    return limit == "triad" ? triad_ : limit == "bf16" ? bf16_ : sgemm_;
  }
  double sgemm_, bf16_, triad_;  // bf16_: 0 where it is no limit
  std::uint32_t stream_ = 0;
};

void Bench::time(std::string name, std::string shape, int per_block, double work_done, std::string_view limit,
                 const std::function<void()>& work, const std::function<void()>& prepare) {
  std::vector<double> seconds;
  for (int i = 0; i < options_.repetitions + 1; ++i) {  // the first one warms workspaces and caches
    prepare();
    backend_.synchronize();
    const double taken = seconds_of([&] {
      work();
      backend_.synchronize();
    });
    if (i > 0) seconds.push_back(taken);
  }
  std::sort(seconds.begin(), seconds.end());
  BenchRow row;
  row.name = std::move(name);
  row.shape = std::move(shape);
  row.per_block = per_block;
  row.work = work_done;
  row.seconds = seconds[seconds.size() / 2];
  row.limit = limit;
  row.limit_rate = limit_rate(limit);
  rows.push_back(std::move(row));
}

void Bench::time_linear(const std::string& name, std::int64_t in, std::int64_t out, int per_block) {
  const Tensor x = random(tokens_, in);
  const Tensor w = random(out, in);
  const Tensor y = backend_.allocate(tokens_, out);
  time("linear " + name, fmt::format("{} x {} x {}", tokens_, out, in), per_block,
       2.0 * static_cast<double>(tokens_ * in * out), products(),
       [&] { backend_.linear().linear(x, w, View(), y, false); });
}

void Bench::time_rows() {
  const double element = 4.0;
  const auto hidden_bytes = element * static_cast<double>(tokens_ * options_.hidden);
  const auto inner_bytes = element * static_cast<double>(tokens_ * options_.intermediate);
  const std::string hidden_shape = fmt::format("{} x {}", tokens_, options_.hidden);
  const Tensor x = random(tokens_, options_.hidden);
  const Tensor y = random(tokens_, options_.hidden);
  const Tensor weight = random(1, options_.hidden);
  time("rms norm", hidden_shape, 2, 2 * hidden_bytes, "triad",
       [&] { backend_.model().norm(Norm::rms, x, weight, View(), 1e-5F, y); });
  time("residual add", hidden_shape, 2, 3 * hidden_bytes, "triad", [&] { backend_.model().add(x, y); });
  const std::int64_t width = (options_.heads + options_.kv_heads) * options_.head_dim;
  const Tensor q = random(tokens_, width);
  const Tensor cosine = random(options_.sequence_length, options_.head_dim / 2);
  const Tensor sine = random(options_.sequence_length, options_.head_dim / 2);
  time("rope q,k", fmt::format("{} x {}", tokens_, width), 1,
       2 * element * static_cast<double>(tokens_ * width), "triad",
       [&] { backend_.model().rope(q, cosine, sine, options_.heads + options_.kv_heads); });
  const Tensor gate = random(tokens_, options_.intermediate);
  const Tensor up = random(tokens_, options_.intermediate);
  time("silu multiply", fmt::format("{} x {}", tokens_, options_.intermediate), 1, 3 * inner_bytes, "triad",
       [&] { backend_.model().silu_multiply(gate, up); });
}

void Bench::time_attention() {
  const Tensor q = random(tokens_, options_.heads * options_.head_dim);
  const Tensor k = random(tokens_, options_.kv_heads * options_.head_dim);
  const Tensor v = random(tokens_, options_.kv_heads * options_.head_dim);
  const Tensor out = backend_.allocate(tokens_, options_.heads * options_.head_dim);
  AttentionShape shape;
  shape.sequence_length = options_.sequence_length;
  shape.heads = options_.heads;
  shape.kv_heads = options_.kv_heads;
  shape.head_dim = options_.head_dim;
  shape.scale = 1.0F / std::sqrt(static_cast<float>(options_.head_dim));
  const auto pairs = static_cast<double>(options_.sequence_length * (options_.sequence_length + 1)) / 2;
  const auto heads = static_cast<double>(options_.sequences * options_.heads);
  time("attention",
       fmt::format("{} x {} x {} heads of {}", options_.sequences, options_.sequence_length, options_.heads,
                   options_.head_dim),
       1, 4.0 * pairs * heads * static_cast<double>(options_.head_dim), "sgemm",
       [&] { backend_.model().causal_attention(q, k, v, shape, out); });
}

void Bench::forward() {
  const std::int64_t attention_width = options_.heads * options_.head_dim;
  time_linear("q", options_.hidden, attention_width, 1);
  time_linear("k or v", options_.hidden, options_.kv_heads * options_.head_dim, 2);
  time_linear("o", attention_width, options_.hidden, 1);
  time_linear("gate or up", options_.hidden, options_.intermediate, 2);
  time_linear("down", options_.intermediate, options_.hidden, 1);
  time_attention();
  time_rows();
}

void Bench::time_gram(const std::string& name, std::int64_t columns, int per_block) {
  const Tensor x = random(tokens_, columns);
  const Tensor h = backend_.allocate(columns, columns);
  backend_.fill(h, 0.0F);
  time("gram " + name, fmt::format("{} x {}", tokens_, columns), per_block,
       static_cast<double>(tokens_) * static_cast<double>(columns * (columns + 1)), products(),
       [&] { backend_.linear().gram(x, 1e-3F, h); });
}

void Bench::hessian() {
  time_gram("qkv; o; gate,up", options_.hidden, 3);
  time_gram("down", options_.intermediate, 1);
}

Tensor Bench::hessian_of(std::int64_t columns) {
  const Tensor x = random(2 * columns, columns);
  std::vector<float> identity(static_cast<std::size_t>(columns * columns), 0.0F);
  for (std::int64_t i = 0; i < columns; ++i) identity[static_cast<std::size_t>(i * (columns + 1))] = 0.01F;
  Tensor h = backend_.allocate(columns, columns);
  backend_.copy_in(std::span<const float>(identity), h);
  backend_.linear().gram(x, 1.0F / static_cast<float>(columns), h);
  return h;
}

void Bench::time_factor(const std::string& name, std::int64_t columns, int per_block) {
  const Tensor h = hessian_of(columns);
  const Tensor work = backend_.allocate(columns, columns);
  const double n = static_cast<double>(columns);
  time(
      "factorization " + name, fmt::format("{} x {}", columns, columns), per_block, 2.0 / 3.0 * n * n * n,
      "sgemm",
      [&] {
        check<NumericalError>(!backend_.linear().inverse_upper_factor(work), "bench: not positive definite");
      },
      [&] { backend_.copy(h, work); });
}

void Bench::factorization() {
  time_factor("qkv; o; gate,up", options_.hidden, 3);
  time_factor("down", options_.intermediate, 1);
}

void Bench::sweep_matrix(const View& w, const View& u, const View& diagonal, const View& score,
                         const View& mask, const View& error) {
  for (std::int64_t first = 0; first < w.cols(); first += options_.block_size) {
    const std::int64_t size = std::min(options_.block_size, w.cols() - first);
    const std::int64_t rest = w.cols() - first - size;
    const View block = w.column_range(first, size);
    const View block_score = score.column_range(0, size);
    const View block_mask = mask.column_range(0, size);
    const View block_error = error.column_range(0, size);
    backend_.prune().saliency(block, diagonal.column_range(first, size), block_score);
    backend_.prune().select_smallest(block_score, block.size() / 2, block_mask);
    const View row = u.row_range(first, size);
    backend_.prune().obs_block(block, row.column_range(first, size), block_mask, block_error);
    if (rest > 0)
      backend_.linear().subtract_product(block_error, row.column_range(first + size, rest),
                                         w.column_range(first + size, rest));
  }
}

void Bench::time_sweep(const std::string& name, std::int64_t out, std::int64_t in, int per_block) {
  const Tensor u = hessian_of(in);
  check<NumericalError>(!backend_.linear().inverse_upper_factor(u), "bench: not positive definite");
  std::vector<float> factor(static_cast<std::size_t>(in * in));
  backend_.copy_out(u, std::span<float>(factor));
  std::vector<float> diagonal_values(static_cast<std::size_t>(in));
  for (std::int64_t i = 0; i < in; ++i)
    diagonal_values[static_cast<std::size_t>(i)] = factor[static_cast<std::size_t>(i * (in + 1))];
  const Tensor diagonal = backend_.allocate(1, in);
  backend_.copy_in(std::span<const float>(diagonal_values), diagonal);
  const Tensor dense = random(out, in);
  const Tensor w = backend_.allocate(out, in);
  const Tensor score = backend_.allocate(out, options_.block_size);
  const Tensor error = backend_.allocate(out, options_.block_size);
  const Tensor mask = backend_.allocate(out, options_.block_size, Element::u8);
  time(
      "sweep " + name, fmt::format("{} x {}", out, in), per_block,
      static_cast<double>(out) * static_cast<double>(in) * static_cast<double>(in), "sgemm",
      [&] { sweep_matrix(w, u, diagonal, score, mask, error); }, [&] { backend_.copy(dense, w); });
}

void Bench::sweep() {
  const std::int64_t attention_width = options_.heads * options_.head_dim;
  time_sweep("q", attention_width, options_.hidden, 1);
  time_sweep("k or v", options_.kv_heads * options_.head_dim, options_.hidden, 2);
  time_sweep("o", options_.hidden, attention_width, 1);
  time_sweep("gate or up", options_.intermediate, options_.hidden, 2);
  time_sweep("down", options_.hidden, options_.intermediate, 1);
}

void Bench::thin(const Tensor& w, double share, int kept, int group) {
  const RandomKey key{.seed = 2, .use = RandomUse::simulation, .client = ++stream_};
  std::vector<float> values(static_cast<std::size_t>(w.view().size()));
  backend_.copy_out(w, std::span<float>(values));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool dropped = group > 0 ? static_cast<int>(i % static_cast<std::size_t>(group)) >= kept
                                   : static_cast<double>(random_bits(key, i) >> 11) * 0x1p-53 < share;
    if (dropped) values[i] = 0.0F;
  }
  backend_.copy_in(std::span<const float>(values), w);
}

/// The dense product does the same work at any sparsity; the sparse ones are credited with it all, so that
/// rates compare.
void Bench::time_spmm(const std::string& name, std::int64_t in, std::int64_t out) {
  const Tensor x = random(tokens_, in);
  const Tensor y = backend_.allocate(tokens_, out);
  const std::string shape = fmt::format("{} x {} x {}", tokens_, out, in);
  const double flop = 2.0 * static_cast<double>(tokens_ * in * out);
  const Tensor dense = random(out, in);
  time("dense " + name, shape, 1, flop, products(),
       [&] { backend_.linear().linear(x, dense, View(), y, false); });
  const auto sparse = [&](const std::string& what, double share, int kept, int group) {
    const Tensor w = random(out, in);
    thin(w, share, kept, group);
    const auto matrix = backend_.csr().compress(w);
    time(what + " " + name, shape, 1, flop, "sgemm",
         [&] { backend_.csr().linear(x, *matrix, View(), y, false); });
  };
  sparse("csr 50 %", 0.5, 0, 0);
  sparse("csr 70 %", 0.7, 0, 0);
  sparse("csr 90 %", 0.9, 0, 0);
  sparse("csr 2:4", 0.5, 2, 4);
  if (backend_.name() == "cuda") time_structured(name, shape, x, out);
}

void Bench::time_structured(const std::string& name, const std::string& shape, const Tensor& x,
                            std::int64_t out) {
  const std::int64_t in = x.view().cols();
  const Tensor w = random(out, in);
  thin(w, 0.5, 2, 4);
  const StructuredChoice choice = make_structured_product(backend_, x, w);
  if (choice.product != nullptr) {
    time(choice.product->name() + " 2:4 " + name, shape, 1, 2.0 * static_cast<double>(tokens_ * in * out),
         "sgemm", [&] { choice.product->run(); });
    return;
  }
  BenchRow row;
  row.name = "cusparselt 2:4 " + name;
  row.shape = shape;
  row.lacks = choice.lacks;
  rows.push_back(std::move(row));
}

void Bench::spmm() {
  time_spmm("q", options_.hidden, options_.heads * options_.head_dim);
  time_spmm("gate or up", options_.hidden, options_.intermediate);
  time_spmm("down", options_.intermediate, options_.hidden);
}

void Bench::add_up() {
  BenchRow total;
  total.name = "decoder block";
  total.limit = products();
  double least = 0;  // seconds, each piece at its own limit
  for (const BenchRow& row : rows) {
    total.seconds += row.per_block * row.seconds;
    if (row.limit == "triad") continue;
    total.work += row.per_block * row.work;
    least += row.per_block * row.work / row.limit_rate;
  }
  total.limit_rate = total.work / least;
  total.shape = fmt::format("{} tokens", tokens_);
  total.per_block = 1;
  rows.push_back(std::move(total));
}

}  // namespace

std::vector<BenchRow> run_backend_bench(Backend& backend, std::string_view name,
                                        const BenchOptions& options) {
  require(options.threads >= 1 && options.repetitions >= 1, "bench: at least one thread and one repetition");
  constexpr std::array<std::string_view, 6> known{"forward", "hessian",   "factorization",
                                                  "sweep",   "sparsegpt", "spmm"};
  check<ConfigError>(
      std::find(known.begin(), known.end(), name) != known.end(),
      fmt::format("bench \"{}\": expected forward, hessian, factorization, sweep, sparsegpt or spmm", name));
  Bench bench(backend, options);
  const bool all = name == "sparsegpt";
  if (all || name == "forward") bench.forward();
  if (all || name == "hessian") bench.hessian();
  if (all || name == "factorization") bench.factorization();
  if (all || name == "sweep") bench.sweep();
  if (name == "spmm") bench.spmm();
  if (all) bench.add_up();
  return std::move(bench.rows);
}

}  // namespace fedspallm::backend
