// SPDX-License-Identifier: Apache-2.0
#include "cases.hpp"

#include "fedspallm/base/random.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <stdexcept>

namespace fedspallm::test {

using backend::Activation;
using backend::AttentionShape;
using backend::Backend;
using backend::Element;
using backend::Norm;
using backend::Tensor;
using backend::View;

std::string Case::name() const {
  std::string text = op;
  for (const std::int64_t size : sizes) text += "_" + std::to_string(size);
  if (strided) text += "_strided";
  std::replace_if(
      text.begin(), text.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return text;
}

std::vector<float> uniform(std::uint64_t seed, std::uint32_t stream, std::int64_t count) {
  RandomKey key;
  key.seed = seed;
  key.use = RandomUse::simulation;
  key.block = stream;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const std::uint64_t bits = random_bits(key, i / 2);
    values[i] = static_cast<float>(static_cast<std::int32_t>(bits >> 32)) * 0x1p-31F;
    if (i + 1 < values.size()) values[i + 1] = static_cast<float>(static_cast<std::int32_t>(bits)) * 0x1p-31F;
  }
  return values;
}

namespace {

/// Makes operands for one case and collects results; keeps the tensors alive.
class Runner {
 public:
  Runner(Backend& backend, const Case& item) : backend_(backend), item_(item) {}

  Backend& operator*() const { return backend_; }
  [[nodiscard]] std::int64_t size(std::size_t index) const { return item_.sizes.at(index); }
  [[nodiscard]] std::vector<float> random(std::int64_t count) {
    return uniform(item_.seed, stream_++, count);
  }

  /// rows x cols on the backend, a window of something larger in strided cases.
  [[nodiscard]] View allocate(std::int64_t rows, std::int64_t cols, Element element = Element::f32) {
    if (!item_.strided) return tensors_.emplace_back(backend_.allocate(rows, cols, element)).view();
    const View whole = tensors_.emplace_back(backend_.allocate(rows + 2, cols + 7, element)).view();
    backend_.fill(whole, 1.0F);
    return whole.row_range(1, rows).column_range(3, cols);
  }
  [[nodiscard]] View upload(const std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
    const View view = allocate(rows, cols);
    backend_.copy_in(std::span<const float>(values), view);
    return view;
  }
  [[nodiscard]] View random(std::int64_t rows, std::int64_t cols) {
    return upload(random(rows * cols), rows, cols);
  }
  /// A mask with about `kept` ones per hundred.
  [[nodiscard]] View random_mask(std::int64_t rows, std::int64_t cols, int kept) {
    const std::vector<float> values = random(rows * cols);
    std::vector<std::uint8_t> mask(values.size());
    for (std::size_t i = 0; i < mask.size(); ++i)
      mask[i] = values[i] * 50.0F + 50.0F < static_cast<float>(kept) ? 1 : 0;
    const View view = allocate(rows, cols, Element::u8);
    backend_.copy_in(std::span<const std::uint8_t>(mask), view);
    return view;
  }
  /// Scores with many ties: multiples of 1/16, some -1 and some -0.
  [[nodiscard]] View tied_scores(std::int64_t rows, std::int64_t cols) {
    std::vector<float> values = random(rows * cols);
    for (float& value : values) value = value < -0.9F ? -1.0F : std::round(value * value * 16.0F) / 16.0F;
    for (std::size_t i = 0; i < values.size(); i += 5)
      if (values[i] == 0.0F) values[i] = -0.0F;
    return upload(values, rows, cols);
  }
  /// x^T x / n + 0.01 I of random x with columns of unequal size: a damped Hessian, upper triangle; 7
  /// elsewhere.
  [[nodiscard]] View hessian(std::int64_t n) {
    const std::int64_t samples = n + 8;
    std::vector<float> x = random(samples * n);
    for (std::int64_t i = 0; i < samples * n; ++i)
      x[static_cast<std::size_t>(i)] *= 1.0F + static_cast<float>(i % n % 5);
    std::vector<double> sums(static_cast<std::size_t>(n * n), 0.0);
    for (std::int64_t k = 0; k < samples; ++k) {
      const float* row = x.data() + k * n;
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = i; j < n; ++j)
          sums[static_cast<std::size_t>(i * n + j)] += static_cast<double>(row[i]) * row[j];
    }
    std::vector<float> h(sums.size(), 7.0F);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = i; j < n; ++j) {
        const auto index = static_cast<std::size_t>(i * n + j);
        h[index] = static_cast<float>(sums[index] / static_cast<double>(samples) + (i == j ? 0.05 : 0.0));
      }
    return upload(h, n, n);
  }
  /// An upper triangular matrix like the U of a Hessian: positive diagonal, smaller elements beside it.
  [[nodiscard]] View upper(std::int64_t n) {
    std::vector<float> u = random(n * n);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        float& value = u[static_cast<std::size_t>(i * n + j)];
        value = j < i ? 0.0F : (j == i ? 1.5F + value : 0.2F * value);
      }
    return upload(u, n, n);
  }

  void keep_values(const View& view) {
    std::vector<float> values(static_cast<std::size_t>(view.size()));
    backend_.copy_out(view, std::span<float>(values));
    output.values.insert(output.values.end(), values.begin(), values.end());
  }
  void keep_mask(const View& view) {
    std::vector<std::uint8_t> values(static_cast<std::size_t>(view.size()));
    backend_.copy_out(view, std::span<std::uint8_t>(values));
    output.masks.insert(output.masks.end(), values.begin(), values.end());
  }

  Output output;

 private:
  Backend& backend_;
  const Case& item_;
  std::uint32_t stream_ = 0;
  std::vector<Tensor> tensors_;
};

using Op = std::function<void(Runner&)>;

// Sizes: n, in, out.
void run_linear(Runner& run, bool bias, bool add) {
  const View x = run.random(run.size(0), run.size(1));
  const View w = run.random(run.size(2), run.size(1));
  const View b = bias ? run.random(1, run.size(2)) : View();
  const View y = run.random(run.size(0), run.size(2));
  (*run).linear().linear(x, w, b, y, add);
  run.keep_values(y);
}

// Sizes: m, k, n.
void run_subtract_product(Runner& run) {
  const View a = run.random(run.size(0), run.size(1));
  const View b = run.random(run.size(1), run.size(2));
  const View c = run.random(run.size(0), run.size(2));
  (*run).linear().subtract_product(a, b, c);
  run.keep_values(c);
}

// Sizes: n, c.
void run_gram(Runner& run) {
  const View x = run.random(run.size(0), run.size(1));
  const View h = run.random(run.size(1), run.size(1));
  (*run).linear().gram(x, 0.5F, h);
  (*run).linear().gram(x, 0.25F, h);
  run.keep_values(h);  // with the lower triangle, which must not change
}

// Size: n.
void run_inverse(Runner& run) {
  const View h = run.hessian(run.size(0));
  run.output.numbers.push_back((*run).linear().inverse_upper_factor(h).value_or(-1));
  run.keep_values(h);
}

// Sizes: n, c.
void run_norm(Runner& run, Norm kind, bool bias, bool in_place) {
  const View x = run.random(run.size(0), run.size(1));
  const View weight = run.random(1, run.size(1));
  const View offset = bias ? run.random(1, run.size(1)) : View();
  const View y = in_place ? x : run.allocate(run.size(0), run.size(1));
  (*run).model().norm(kind, x, weight, offset, 1e-5F, y);
  run.keep_values(y);
}

// Sizes: sequences, length, heads, half.
void run_rope(Runner& run) {
  const View x = run.random(run.size(0) * run.size(1), run.size(2) * 2 * run.size(3));
  const View cosine = run.random(run.size(1), run.size(3));
  const View sine = run.random(run.size(1), run.size(3));
  (*run).model().rope(x, cosine, sine, run.size(2));
  run.keep_values(x);
}

// Sizes: sequences, length, heads, kv heads, head_dim, window.
void run_attention(Runner& run) {
  AttentionShape shape;
  shape.sequence_length = run.size(1);
  shape.heads = run.size(2);
  shape.kv_heads = run.size(3);
  shape.head_dim = run.size(4);
  shape.window = run.size(5);
  shape.scale = 3.0F / std::sqrt(static_cast<float>(shape.head_dim));
  const std::int64_t rows = run.size(0) * shape.sequence_length;
  const View q = run.random(rows, shape.heads * shape.head_dim);
  const View k = run.random(rows, shape.kv_heads * shape.head_dim);
  const View v = run.random(rows, shape.kv_heads * shape.head_dim);
  const View out = run.allocate(rows, shape.heads * shape.head_dim);
  (*run).model().causal_attention(q, k, v, shape, out);
  run.keep_values(out);
}

/// n x c numbers in [-20, 20), with some very large and some zero.
View wide_values(Runner& run) {
  std::vector<float> values = run.random(run.size(0) * run.size(1));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] *= i % 17 == 0 ? 200.0F : (i % 11 == 0 ? 0.0F : 20.0F);
  return run.upload(values, run.size(0), run.size(1));
}

// Sizes: n, c.
void run_silu_multiply(Runner& run) {
  const View gate = wide_values(run);
  const View up = run.random(run.size(0), run.size(1));
  (*run).model().silu_multiply(gate, up);
  run.keep_values(gate);
}

void run_activate(Runner& run, Activation kind) {
  const View x = wide_values(run);
  (*run).model().activate(kind, x);
  run.keep_values(x);
}

void run_add(Runner& run) {
  const View x = run.random(run.size(0), run.size(1));
  const View y = run.random(run.size(0), run.size(1));
  (*run).model().add(x, y);
  run.keep_values(y);
}

void run_token_nll(Runner& run) {
  const View logits = wide_values(run);
  std::vector<std::int32_t> targets(static_cast<std::size_t>(run.size(0)));
  for (std::size_t i = 0; i < targets.size(); ++i)
    targets[i] =
        i % 4 == 3 ? -1 : static_cast<std::int32_t>(i * 7919 % static_cast<std::size_t>(run.size(1)));
  run.output.doubles.resize(targets.size());
  (*run).model().token_nll(logits, targets, run.output.doubles);
}

// Sizes: n, c, then the row-major index that gets the value (-1: none).
void run_first_non_finite(Runner& run, float value) {
  std::vector<float> values = run.random(run.size(0) * run.size(1));
  if (run.size(2) >= 0)
    for (std::size_t i = static_cast<std::size_t>(run.size(2)); i < values.size(); i += 1000)
      values[i] = value;
  const View x = run.upload(values, run.size(0), run.size(1));
  run.output.numbers.push_back((*run).model().first_non_finite(x).value_or(-1));
}

// Sizes: r, c.
void run_scores(Runner& run, bool saliency) {
  const View w = run.random(run.size(0), run.size(1));
  const View row = run.random(1, run.size(1));
  const View score = run.allocate(run.size(0), run.size(1));
  if (saliency) {
    (*run).prune().saliency(w, row, score);
  } else {
    (*run).prune().weighted_magnitude(w, row, score);
  }
  // These are single roundings in both: exactly the same.
  run.keep_values(score);
  const auto* first = reinterpret_cast<const std::byte*>(run.output.values.data());
  run.output.bytes.assign(first, first + run.output.values.size() * sizeof(float));
}

void run_prefer_dropped(Runner& run) {
  const View mask = run.random_mask(run.size(0), run.size(1), 60);
  const View score = run.random(run.size(0), run.size(1));
  (*run).prune().prefer_dropped(mask, score);
  run.keep_values(score);
}

// Sizes: r, c, count.
void run_select(Runner& run, bool ties) {
  const View score = ties ? run.tied_scores(run.size(0), run.size(1)) : run.random(run.size(0), run.size(1));
  const View mask = run.allocate(run.size(0), run.size(1), Element::u8);
  (*run).prune().select_smallest(score, run.size(2), mask);
  run.keep_mask(mask);
}

// Sizes: r, c. Row i drops (i * 37) % (c + 1).
void run_select_per_row(Runner& run, bool ties) {
  const View score = ties ? run.tied_scores(run.size(0), run.size(1)) : run.random(run.size(0), run.size(1));
  const View mask = run.allocate(run.size(0), run.size(1), Element::u8);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(run.size(0)));
  for (std::size_t i = 0; i < counts.size(); ++i)
    counts[i] = static_cast<std::int64_t>(i) * 37 % (run.size(1) + 1);
  (*run).prune().select_smallest_per_row(score, counts, mask);
  run.keep_mask(mask);
}

// Sizes: r, c, index.
void run_select_published(Runner& run) {
  const View score = run.tied_scores(run.size(0), run.size(1));
  const View mask = run.allocate(run.size(0), run.size(1), Element::u8);
  (*run).prune().select_published(score, run.size(2), mask);
  run.keep_mask(mask);
}

// Sizes: r, b.
void run_obs_block(Runner& run) {
  const View w = run.random(run.size(0), run.size(1));
  const View u = run.upper(run.size(1));
  const View mask = run.random_mask(run.size(0), run.size(1), 50);
  const View error = run.allocate(run.size(0), run.size(1));
  (*run).prune().obs_block(w, u, mask, error);
  run.keep_values(w);
  run.keep_values(error);
}

// Sizes: r, b, keep, m.
void run_obs_n_of_m(Runner& run, bool previous) {
  const View w = run.random(run.size(0), run.size(1));
  const View u = run.upper(run.size(1));
  const View before = previous ? run.random_mask(run.size(0), run.size(1), 80) : View();
  const View mask = run.allocate(run.size(0), run.size(1), Element::u8);
  const View error = run.allocate(run.size(0), run.size(1));
  (*run).prune().obs_block_n_of_m(w, u, static_cast<int>(run.size(2)), static_cast<int>(run.size(3)), before,
                                  mask, error);
  run.keep_values(w);
  run.keep_values(error);
  run.keep_mask(mask);
}

void run_select_n_of_m(Runner& run) {
  const View score = run.tied_scores(run.size(0), run.size(1));
  const View mask = run.allocate(run.size(0), run.size(1), Element::u8);
  (*run).prune().select_n_of_m(score, static_cast<int>(run.size(2)), static_cast<int>(run.size(3)), mask);
  run.keep_mask(mask);
}

// Sizes: r, c.
void run_apply_mask(Runner& run) {
  const View mask = run.random_mask(run.size(0), run.size(1), 50);
  const View w = run.random(run.size(0), run.size(1));
  (*run).prune().apply_mask(mask, w);
  run.keep_values(w);
}

void run_round(Runner& run, DType dtype) {
  std::vector<float> values = run.random(run.size(0) * run.size(1));
  for (std::size_t i = 0; i < values.size(); i += 9) values[i] *= 1e-6F;  // subnormal in f16
  const View w = run.upload(values, run.size(0), run.size(1));
  (*run).prune().round_to_dtype(dtype, w);
  run.keep_values(w);
  const auto* first = reinterpret_cast<const std::byte*>(run.output.values.data());
  run.output.bytes.assign(first, first + run.output.values.size() * sizeof(float));
}

void run_squares(Runner& run) {
  auto& prune = (*run).prune();
  prune.start_squares();
  prune.add_squares(run.random(run.size(0), run.size(1)));
  run.output.doubles.push_back(prune.squares());
  prune.add_squares(run.random(run.size(0), run.size(1)));
  run.output.doubles.push_back(prune.squares());
  prune.start_squares();
  run.output.doubles.push_back(prune.squares());
}

// Sizes: r, c, kept per hundred. Packs, and unpacks what was packed.
void run_pack(Runner& run, DType dtype) {
  const View w = run.random(run.size(0), run.size(1));
  const View mask = run.random_mask(run.size(0), run.size(1), static_cast<int>(run.size(2)));
  std::vector<std::uint64_t> bits(static_cast<std::size_t>((w.size() + 63) / 64), ~std::uint64_t{0});
  std::vector<std::byte> values(3, std::byte{9});
  run.output.numbers.push_back((*run).sparse().pack(w, mask, dtype, bits, values));
  run.output.bytes = values;
  for (const std::uint64_t word : bits) run.output.numbers.push_back(static_cast<std::int64_t>(word));
  const View back = run.random(run.size(0), run.size(1));
  (*run).sparse().unpack(bits, values, dtype, back);
  run.keep_values(back);
  const View mask_back = run.random_mask(run.size(0), run.size(1), 50);
  (*run).sparse().unpack_mask(bits, mask_back);
  run.keep_mask(mask_back);
}

// Sizes: r, c. Host to device to device to host.
void run_copies(Runner& run) {
  const std::vector<float> halves = run.random(run.size(0) * run.size(1));
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    std::vector<std::byte> stored(1 + halves.size() * size_of(dtype));
    narrow(dtype, halves.data(), stored.data() + 1, halves.size());  // not aligned
    const View widened = run.allocate(run.size(0), run.size(1));
    (*run).copy_in_widened(dtype, std::span<const std::byte>(stored).subspan(1), widened);
    const View copied = run.allocate(run.size(0), run.size(1));
    (*run).copy(widened, copied);
    run.keep_values(copied);
  }
  const View mask = run.random_mask(run.size(0), run.size(1), 50);
  const View mask_copy = run.allocate(run.size(0), run.size(1), Element::u8);
  (*run).copy(mask, mask_copy);
  run.keep_mask(mask_copy);
  (*run).fill(mask_copy, 1.0F);
  run.keep_mask(mask_copy);
  (*run).synchronize();
}

const std::map<std::string, Op>& ops() {
  static const std::map<std::string, Op> table{
      {"linear", [](Runner& run) { run_linear(run, false, false); }},
      {"linear:bias", [](Runner& run) { run_linear(run, true, false); }},
      {"linear:add", [](Runner& run) { run_linear(run, false, true); }},
      {"linear:bias_add", [](Runner& run) { run_linear(run, true, true); }},
      {"subtract_product", run_subtract_product},
      {"gram", run_gram},
      {"inverse_upper_factor", run_inverse},
      {"norm:rms", [](Runner& run) { run_norm(run, Norm::rms, false, false); }},
      {"norm:rms_in_place", [](Runner& run) { run_norm(run, Norm::rms, false, true); }},
      {"norm:layer", [](Runner& run) { run_norm(run, Norm::layer, false, false); }},
      {"norm:layer_bias", [](Runner& run) { run_norm(run, Norm::layer, true, true); }},
      {"rope", run_rope},
      {"causal_attention", run_attention},
      {"silu_multiply", run_silu_multiply},
      {"activate:relu", [](Runner& run) { run_activate(run, Activation::relu); }},
      {"activate:gelu", [](Runner& run) { run_activate(run, Activation::gelu); }},
      {"add", run_add},
      {"token_nll", run_token_nll},
      {"first_non_finite:nan", [](Runner& run) { run_first_non_finite(run, std::nanf("")); }},
      {"first_non_finite:infinity", [](Runner& run) { run_first_non_finite(run, -HUGE_VALF); }},
      {"saliency", [](Runner& run) { run_scores(run, true); }},
      {"weighted_magnitude", [](Runner& run) { run_scores(run, false); }},
      {"prefer_dropped", run_prefer_dropped},
      {"select_smallest", [](Runner& run) { run_select(run, false); }},
      {"select_smallest:ties", [](Runner& run) { run_select(run, true); }},
      {"select_smallest_per_row", [](Runner& run) { run_select_per_row(run, false); }},
      {"select_smallest_per_row:ties", [](Runner& run) { run_select_per_row(run, true); }},
      {"select_published", run_select_published},
      {"obs_block", run_obs_block},
      {"obs_block_n_of_m", [](Runner& run) { run_obs_n_of_m(run, false); }},
      {"obs_block_n_of_m:previous", [](Runner& run) { run_obs_n_of_m(run, true); }},
      {"select_n_of_m", run_select_n_of_m},
      {"apply_mask", run_apply_mask},
      {"round_to_dtype:bf16", [](Runner& run) { run_round(run, DType::bf16); }},
      {"round_to_dtype:f16", [](Runner& run) { run_round(run, DType::f16); }},
      {"round_to_dtype:f32", [](Runner& run) { run_round(run, DType::f32); }},
      {"squares", run_squares},
      {"pack:f32", [](Runner& run) { run_pack(run, DType::f32); }},
      {"pack:f16", [](Runner& run) { run_pack(run, DType::f16); }},
      {"pack:bf16", [](Runner& run) { run_pack(run, DType::bf16); }},
      {"copies", run_copies},
  };
  return table;
}

}  // namespace

Output run_case(Backend& backend, const Case& item) {
  const auto op = ops().find(item.op);
  if (op == ops().end()) throw std::invalid_argument("no op " + item.op);
  Runner runner(backend, item);
  op->second(runner);
  return std::move(runner.output);
}

}  // namespace fedspallm::test
