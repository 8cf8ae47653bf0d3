// SPDX-License-Identifier: Apache-2.0
#include "../checks.hpp"
#include "kernels.hpp"
#include "operands.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cuda {

void CudaModel::norm(Norm kind, View x, View weight, View bias, float epsilon, View y) {
  checks::norm(owner_, kind, x, weight, bias, y);
  norm_rows(engine_.stream(), kind, device_floats(x), Access::f32(weight), device_row(bias), epsilon,
            device_floats(y));
}

void CudaModel::rope(View x, View cosine, View sine, std::int64_t heads) {
  checks::rope(owner_, x, cosine, sine, heads);
  rotate(engine_.stream(), device_floats(cosine), device_floats(sine), heads, device_floats(x));
}

namespace {

/// The products and softmaxes of one sequence, a tile of queries at a time. Heads that share a key head are
/// reached by a call for each of them, over all key heads at once.
class Attention {
 public:
  Attention(Engine& engine, DType type, const AttentionShape& shape)
      : engine_(engine),
        shape_(shape),
        type_(type),
        tile_rows_(attention_tile_rows(shape.sequence_length, shape.heads)),
        sharing_(shape.heads / shape.kv_heads),
        layout_(attention_layout(shape.sequence_length, shape.heads, shape.kv_heads, shape.head_dim,
                                 type_ != DType::f32)),
        memory_(engine.scratch.bytes(layout_.bytes)) {}

  void sequence(const View& q, const View& k, const View& v, const View& out) const {
    const cudaStream_t stream = engine_.stream();
    const Operand queries = operand_of(stream, type_, q, memory_ + layout_.queries, false);
    const Operand keys = operand_of(stream, type_, k, memory_ + layout_.keys, true);
    const Operand values = operand_of(stream, type_, v, memory_ + layout_.values, false);
    for (std::int64_t first = 0; first < shape_.sequence_length; first += tile_rows_) {
      const std::int64_t rows = std::min(tile_rows_, shape_.sequence_length - first);
      const std::int64_t first_key = attention_first_key(first, shape_.window);
      tile({first, rows, first_key, shape_.window, shape_.scale}, first + rows - first_key,
           operand_at(type_, queries, first, 0), operand_at(type_, keys, first_key, 0),
           operand_at(type_, values, first_key, 0), out.row_range(first, rows));
    }
  }

 private:
  /// Scores and weights are heads x rows x keys.
  void tile(const AttentionTile& tile, std::int64_t keys, const Operand& q, const Operand& k,
            const Operand& v, const View& out) const {
    const std::int64_t rows = tile.tile, depth = shape_.head_dim, head_scores = rows * keys;
    auto* scores = reinterpret_cast<float*>(memory_ + layout_.scores);
    const auto heads = [&](Operand operand, std::int64_t column, std::int64_t batch_stride) {
      operand = operand_at(type_, operand, 0, column);
      operand.batch_stride = batch_stride;
      return operand;
    };
    for (std::int64_t i = 0; i < sharing_; ++i)
      engine_.blas.gemm_batch(type_, rows, keys, depth, 1.0F, heads(q, i * depth, sharing_ * depth),
                              heads(k, 0, depth), scores + i * head_scores, keys, sharing_ * head_scores,
                              shape_.kv_heads);
    const Operand weights{softmax(tile, {scores, shape_.heads * rows, keys, keys}), keys, false, 0};
    for (std::int64_t i = 0; i < sharing_; ++i)
      engine_.blas.gemm_batch(type_, rows, depth, keys, 1.0F,
                              heads(weights, i * head_scores, sharing_ * head_scores), heads(v, 0, depth),
                              Access::f32(out) + i * depth, out.stride(), sharing_ * depth, shape_.kv_heads);
  }

  /// @return the weights as a product takes them
  [[nodiscard]] const void* softmax(const AttentionTile& tile, Floats scores) const {
    if (type_ == DType::f32) {
      softmax_rows(engine_.stream(), tile, scores);
      return scores.data;
    }
    auto* weights = reinterpret_cast<std::uint16_t*>(memory_ + layout_.weights);
    softmax_rows(engine_.stream(), tile, scores, type_, weights);
    return weights;
  }

  Engine& engine_;
  const AttentionShape& shape_;
  DType type_;
  std::int64_t tile_rows_, sharing_;
  AttentionLayout layout_;
  std::byte* memory_;
};

}  // namespace

void CudaModel::causal_attention(View q, View k, View v, const AttentionShape& shape, View out) {
  checks::causal_attention(owner_, q, k, v, shape, out);
  if (q.empty()) return;
  static_cast<void>(engine_.stream());
  const Attention attention(engine_, type_of(owner_->products()), shape);
  for (std::int64_t first = 0; first < q.rows(); first += shape.sequence_length) {
    const auto rows = [&](const View& view) { return view.row_range(first, shape.sequence_length); };
    attention.sequence(rows(q), rows(k), rows(v), rows(out));
  }
}

void CudaModel::silu_multiply(View gate, View up) {
  checks::silu_multiply(owner_, gate, up);
  cuda::silu_multiply(engine_.stream(), device_floats(up), device_floats(gate));
}

void CudaModel::activate(Activation kind, View x) {
  checks::activate(owner_, x);
  cuda::activate(engine_.stream(), kind, device_floats(x));
}

void CudaModel::add(View x, View y) {
  checks::add(owner_, x, y);
  add_elements(engine_.stream(), device_floats(x), device_floats(y));
}

void CudaModel::token_nll(View logits, std::span<const std::int32_t> targets, std::span<double> nll) {
  checks::token_nll(owner_, logits, targets, nll);
  if (nll.empty()) return;
  const std::int64_t rows = logits.rows();
  Layout layout;
  const std::size_t target_part = layout.add<std::int32_t>(rows);
  const std::size_t nll_part = layout.add<double>(rows);
  std::byte* memory = engine_.scratch.bytes(layout.bytes());
  auto* device_targets = reinterpret_cast<std::int32_t*>(memory + target_part);
  auto* device_nll = reinterpret_cast<double*>(memory + nll_part);
  engine_.upload(targets.data(), rows, device_targets);
  nll_of_rows(engine_.stream(), device_floats(logits), device_targets, device_nll);
  engine_.staging.download(device_nll, nll.size_bytes(), nll.data());
}

std::optional<std::int64_t> CudaModel::first_non_finite(View x) {
  checks::first_non_finite(owner_, x);
  if (x.empty()) return std::nullopt;
  auto* first = engine_.scratch.elements<unsigned long long>(1);
  cuda::first_non_finite(engine_.stream(), device_floats(x), first);
  const unsigned long long found = engine_.read(first);
  if (found == ~0ULL) return std::nullopt;
  return static_cast<std::int64_t>(found);
}

}  // namespace fedspallm::backend::cuda
