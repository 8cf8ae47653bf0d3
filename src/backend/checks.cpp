// SPDX-License-Identifier: Apache-2.0
#include "checks.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

#include <bit>
#include <limits>
#include <string_view>

namespace fedspallm::backend::checks {

namespace {

[[noreturn]] void fail(std::string_view op, std::string_view operand, std::string_view found,
                       std::string_view expected) {
  throw LogicError(fmt::format("{}: {}: found {}, expected {}", op, operand, found, expected));
}

void expect(bool condition, std::string_view op, std::string_view expectation) {
  if (!condition) throw LogicError(fmt::format("{}: expected {}", op, expectation));
}

/// The operand is this backend's, has this element type and this shape.
void operand(const Backend* owner, std::string_view op, std::string_view name, const View& view,
             Element element, std::int64_t rows, std::int64_t cols) {
  if (view.owner() != owner)
    fail(op, name, view.owner() == nullptr ? "no tensor" : "a tensor of another backend",
         "a tensor of this backend");
  if (view.element() != element)
    fail(op, name, view.element() == Element::f32 ? "f32" : "u8", element == Element::f32 ? "f32" : "u8");
  if (view.rows() != rows || view.cols() != cols)
    fail(op, name, fmt::format("{} x {}", view.rows(), view.cols()), fmt::format("{} x {}", rows, cols));
}

void floats_like(const Backend* owner, std::string_view op, std::string_view name, const View& view,
                 const View& like) {
  operand(owner, op, name, view, Element::f32, like.rows(), like.cols());
}

void mask_like(const Backend* owner, std::string_view op, std::string_view name, const View& view,
               const View& like) {
  operand(owner, op, name, view, Element::u8, like.rows(), like.cols());
}

/// The first operand of an op: any shape.
void any(const Backend* owner, std::string_view op, std::string_view name, const View& view,
         Element element = Element::f32) {
  operand(owner, op, name, view, element, view.rows(), view.cols());
}

void row_of(const Backend* owner, std::string_view op, std::string_view name, const View& view,
            std::int64_t cols) {
  operand(owner, op, name, view, Element::f32, 1, cols);
}

/// A default-constructed View stands for an operand that is left out.
bool left_out(const View& view) {
  return view.owner() == nullptr && view.empty();
}

void groups(std::string_view op, std::int64_t cols, int keep, int m) {
  expect(m >= 1 && keep >= 0 && keep <= m, op,
         fmt::format("0 <= keep <= m, found keep = {}, m = {}", keep, m));
  expect(cols % m == 0, op, fmt::format("columns divisible by m, found {} columns, m = {}", cols, m));
}

void words(std::string_view op, std::size_t found, const View& view) {
  const auto expected = static_cast<std::size_t>((view.size() + 63) / 64);
  expect(found == expected, op, fmt::format("{} words of bits, found {}", expected, found));
}

}  // namespace

void linear(const Backend* owner, const View& x, const View& w, const View& bias, const View& y) {
  any(owner, "linear", "x", x);
  operand(owner, "linear", "w", w, Element::f32, w.rows(), x.cols());
  if (!left_out(bias)) row_of(owner, "linear", "bias", bias, w.rows());
  operand(owner, "linear", "y", y, Element::f32, x.rows(), w.rows());
}

void subtract_product(const Backend* owner, const View& a, const View& b, const View& c) {
  any(owner, "subtract_product", "a", a);
  operand(owner, "subtract_product", "b", b, Element::f32, a.cols(), b.cols());
  operand(owner, "subtract_product", "c", c, Element::f32, a.rows(), b.cols());
}

void gram(const Backend* owner, const View& x, const View& h) {
  any(owner, "gram", "x", x);
  operand(owner, "gram", "h", h, Element::f32, x.cols(), x.cols());
}

void inverse_upper_factor(const Backend* owner, const View& h) {
  operand(owner, "inverse_upper_factor", "h", h, Element::f32, h.cols(), h.cols());
}

void norm(const Backend* owner, Norm kind, const View& x, const View& weight, const View& bias,
          const View& y) {
  any(owner, "norm", "x", x);
  row_of(owner, "norm", "weight", weight, x.cols());
  if (!left_out(bias)) {
    expect(kind == Norm::layer, "norm", "no bias for the rms norm");
    row_of(owner, "norm", "bias", bias, x.cols());
  }
  floats_like(owner, "norm", "y", y, x);
}

void rope(const Backend* owner, const View& x, const View& cosine, const View& sine, std::int64_t heads) {
  any(owner, "rope", "x", x);
  any(owner, "rope", "cosine", cosine);
  floats_like(owner, "rope", "sine", sine, cosine);
  expect(heads >= 1, "rope", fmt::format("heads >= 1, found {}", heads));
  expect(x.cols() == 2 * heads * cosine.cols(), "rope",
         fmt::format("x of 2 x {} heads x {} columns, found {}", heads, cosine.cols(), x.cols()));
  expect(x.rows() == 0 || cosine.rows() >= 1, "rope", "at least one row of cosine and sine");
}

void causal_attention(const Backend* owner, const View& q, const View& k, const View& v,
                      const AttentionShape& shape, const View& out) {
  constexpr std::string_view op = "causal_attention";
  expect(shape.sequence_length >= 1, op,
         fmt::format("sequence_length >= 1, found {}", shape.sequence_length));
  expect(shape.kv_heads >= 1 && shape.heads >= 1 && shape.heads % shape.kv_heads == 0, op,
         fmt::format("heads a multiple of kv_heads, found {} and {}", shape.heads, shape.kv_heads));
  expect(shape.head_dim >= 1, op, fmt::format("head_dim >= 1, found {}", shape.head_dim));
  expect(shape.scale > 0.0F, op, fmt::format("scale > 0, found {}", shape.scale));
  expect(shape.window >= 0, op, fmt::format("window >= 0, found {}", shape.window));
  operand(owner, op, "q", q, Element::f32, q.rows(), shape.heads * shape.head_dim);
  operand(owner, op, "k", k, Element::f32, q.rows(), shape.kv_heads * shape.head_dim);
  operand(owner, op, "v", v, Element::f32, q.rows(), shape.kv_heads * shape.head_dim);
  floats_like(owner, op, "out", out, q);
  expect(q.rows() % shape.sequence_length == 0, op,
         fmt::format("whole sequences of {} rows, found {} rows", shape.sequence_length, q.rows()));
}

void silu_multiply(const Backend* owner, const View& gate, const View& up) {
  any(owner, "silu_multiply", "gate", gate);
  floats_like(owner, "silu_multiply", "up", up, gate);
}

void activate(const Backend* owner, const View& x) {
  any(owner, "activate", "x", x);
}

void add(const Backend* owner, const View& x, const View& y) {
  any(owner, "add", "x", x);
  floats_like(owner, "add", "y", y, x);
}

void token_nll(const Backend* owner, const View& logits, std::span<const std::int32_t> targets,
               std::span<const double> nll) {
  any(owner, "token_nll", "logits", logits);
  const auto rows = static_cast<std::size_t>(logits.rows());
  expect(targets.size() == rows, "token_nll", fmt::format("{} targets, found {}", rows, targets.size()));
  expect(nll.size() == rows, "token_nll", fmt::format("{} places in nll, found {}", rows, nll.size()));
  for (const std::int32_t target : targets)
    expect(target < logits.cols(), "token_nll",
           fmt::format("targets below {}, found {}", logits.cols(), target));
}

void first_non_finite(const Backend* owner, const View& x) {
  any(owner, "first_non_finite", "x", x);
}

void scores(const Backend* owner, const View& w, const View& row, const View& score) {
  any(owner, "scores", "w", w);
  row_of(owner, "scores", "diag or factor", row, w.cols());
  floats_like(owner, "scores", "score", score, w);
}

void prefer_dropped(const Backend* owner, const View& previous_mask, const View& score) {
  any(owner, "prefer_dropped", "score", score);
  mask_like(owner, "prefer_dropped", "previous_mask", previous_mask, score);
}

void select_smallest(const Backend* owner, const View& score, std::int64_t count, const View& mask) {
  any(owner, "select_smallest", "score", score);
  mask_like(owner, "select_smallest", "mask", mask, score);
  expect(count >= 0 && count <= score.size(), "select_smallest",
         fmt::format("0 <= count <= {}, found {}", score.size(), count));
}

void select_smallest_per_row(const Backend* owner, const View& score, std::span<const std::int64_t> counts,
                             const View& mask) {
  constexpr std::string_view op = "select_smallest_per_row";
  any(owner, op, "score", score);
  mask_like(owner, op, "mask", mask, score);
  expect(counts.size() == static_cast<std::size_t>(score.rows()), op,
         fmt::format("{} counts, found {}", score.rows(), counts.size()));
  for (const std::int64_t count : counts)
    expect(count >= 0 && count <= score.cols(), op,
           fmt::format("0 <= count <= {}, found {}", score.cols(), count));
}

void select_published(const Backend* owner, const View& score, std::int64_t index, const View& mask) {
  any(owner, "select_published", "score", score);
  mask_like(owner, "select_published", "mask", mask, score);
  expect(index >= 0 && index < score.size(), "select_published",
         fmt::format("0 <= index < {}, found {}", score.size(), index));
}

void obs_block(const Backend* owner, const View& w, const View& u, const View& mask, const View& error) {
  any(owner, "obs_block", "w", w);
  operand(owner, "obs_block", "u", u, Element::f32, w.cols(), w.cols());
  mask_like(owner, "obs_block", "mask", mask, w);
  floats_like(owner, "obs_block", "error", error, w);
}

void obs_block_n_of_m(const Backend* owner, const View& w, const View& u, int keep, int m,
                      const View& previous_mask, const View& mask, const View& error) {
  obs_block(owner, w, u, mask, error);
  groups("obs_block_n_of_m", w.cols(), keep, m);
  if (!left_out(previous_mask)) mask_like(owner, "obs_block_n_of_m", "previous_mask", previous_mask, w);
}

void select_n_of_m(const Backend* owner, const View& score, int keep, int m, const View& mask) {
  any(owner, "select_n_of_m", "score", score);
  mask_like(owner, "select_n_of_m", "mask", mask, score);
  groups("select_n_of_m", score.cols(), keep, m);
}

void apply_mask(const Backend* owner, const View& mask, const View& w) {
  any(owner, "apply_mask", "w", w);
  mask_like(owner, "apply_mask", "mask", mask, w);
}

void round_to_dtype(const Backend* owner, const View& w) {
  any(owner, "round_to_dtype", "w", w);
}

void add_squares(const Backend* owner, const View& x) {
  any(owner, "add_squares", "x", x);
}

double started_squares(const std::optional<double>& sum) {
  require(sum.has_value(), "squares: start_squares() was called");
  return *sum;
}

void pack(const Backend* owner, const View& w, const View& mask, std::span<const std::uint64_t> bits) {
  any(owner, "pack", "w", w);
  mask_like(owner, "pack", "mask", mask, w);
  words("pack", bits.size(), w);
}

namespace {

void padding_is_zero(std::string_view op, std::span<const std::uint64_t> bits, const View& view) {
  const auto used = static_cast<unsigned>(view.size() % 64);
  if (used == 0) return;
  expect((bits.back() >> used) == 0, op, "zeros in the padding bits of the last word");
}

}  // namespace

std::int64_t unpack(const Backend* owner, std::span<const std::uint64_t> bits,
                    std::span<const std::byte> values, DType dtype, const View& w) {
  any(owner, "unpack", "w", w);
  words("unpack", bits.size(), w);
  padding_is_zero("unpack", bits, w);
  std::size_t kept = 0;
  for (const std::uint64_t word : bits) kept += static_cast<std::size_t>(std::popcount(word));
  expect(values.size() == kept * size_of(dtype), "unpack",
         fmt::format("{} bytes for {} set bits, found {}", kept * size_of(dtype), kept, values.size()));
  return static_cast<std::int64_t>(kept);
}

void unpack_mask(const Backend* owner, std::span<const std::uint64_t> bits, const View& mask) {
  any(owner, "unpack_mask", "mask", mask, Element::u8);
  words("unpack_mask", bits.size(), mask);
  padding_is_zero("unpack_mask", bits, mask);
}

void pack_update(const Backend* owner, const View& w, const View& mask) {
  any(owner, "pack of an update", "w", w);
  mask_like(owner, "pack of an update", "mask", mask, w);
}

void add_update(const UpdateOps::Update& update) {
  expect(update.weights >= 0 && update.kept >= 0 && update.kept <= update.weights, "add of an update",
         fmt::format("0 <= kept <= weights, found {} and {}", update.kept, update.weights));
  expect(update.weights == 0 || (update.bits != nullptr && (update.kept == 0 || update.values != nullptr)),
         "add of an update", "bits and values");
}

void finish_merge(const UpdateOps::Finish& how) {
  const char* op = "finish of a merge";
  constexpr std::int64_t largest = 0xffffffffLL;  // ranks and histograms count in 32 bits
  expect(how.rows >= 0 && how.cols >= 0 && (how.rows == 0 || how.cols <= largest / how.rows), op,
         fmt::format("rows, cols >= 0 and fewer than 2^32 weights, found {} x {}", how.rows, how.cols));
  expect(how.clients >= 1 && how.clients < (1U << 24), op,
         fmt::format("1 <= clients < 2^24, found {}", how.clients));
  expect(how.target >= -1 && how.target <= how.rows * how.cols, op,
         fmt::format("a target of -1 or of at most all weights, found {}", how.target));
  expect(
      how.group == 0 ? how.keep == 0 : how.keep > 0 && how.keep <= how.group && how.target < 0, op,
      fmt::format("N:M with 0 < N <= M and without a target, or neither, found {}:{}", how.keep, how.group));
  expect(how.group == 0 || how.cols % how.group == 0, op,
         fmt::format("columns in whole groups, found {} and {}", how.cols, how.group));
  if ((how.target < 0 && how.group == 0) || how.tie != UpdateOps::Tie::score) return;
  expect(std::ssize(how.column_weights) == how.cols, op, "a weight for each column");
  for (const std::int64_t weight : how.column_weights) expect(weight >= 0, op, "columns' weights >= 0");
}

namespace {

void own_csr(const Backend* owner, std::string_view op, const CsrMatrix& matrix) {
  expect(matrix.owner() == owner, op, "a matrix of this backend");
}

}  // namespace

void csr_compress(const Backend* owner, const View& w) {
  any(owner, "compress to CSR", "w", w);
  constexpr std::int64_t limit = std::numeric_limits<std::int32_t>::max();
  expect(w.size() <= limit && w.rows() < limit, "compress to CSR", "fewer than 2^31 elements");
}

void csr_expand(const Backend* owner, const CsrMatrix& matrix, const View& w) {
  own_csr(owner, "expand from CSR", matrix);
  operand(owner, "expand from CSR", "w", w, Element::f32, matrix.rows(), matrix.cols());
}

void csr_linear(const Backend* owner, const View& x, const CsrMatrix& w, const View& bias, const View& y) {
  own_csr(owner, "linear with CSR", w);
  operand(owner, "linear with CSR", "x", x, Element::f32, x.rows(), w.cols());
  if (!left_out(bias)) row_of(owner, "linear with CSR", "bias", bias, w.rows());
  operand(owner, "linear with CSR", "y", y, Element::f32, x.rows(), w.rows());
}

void host_copy(const Backend* owner, const View& view, Element element, std::size_t host_elements) {
  any(owner, "copy between host and device", "device view", view, element);
  expect(host_elements == static_cast<std::size_t>(view.size()), "copy between host and device",
         fmt::format("{} host elements, found {}", view.size(), host_elements));
}

void widened_copy(const Backend* owner, const View& view, DType dtype, std::size_t host_bytes) {
  any(owner, "copy_in_widened", "destination", view);
  const std::size_t expected = static_cast<std::size_t>(view.size()) * size_of(dtype);
  expect(host_bytes == expected, "copy_in_widened", fmt::format("{} bytes, found {}", expected, host_bytes));
}

void device_copy(const Backend* owner, const View& source, const View& destination) {
  any(owner, "copy", "source", source, source.element());
  operand(owner, "copy", "destination", destination, source.element(), source.rows(), source.cols());
}

void fill(const Backend* owner, const View& destination, float value) {
  any(owner, "fill", "destination", destination, destination.element());
  expect(destination.element() == Element::f32 || value == 0.0F || value == 1.0F, "fill",
         "0 or 1 for a mask");
}

}  // namespace fedspallm::backend::checks
