// SPDX-License-Identifier: Apache-2.0
// What stands before the first block and after the last one: embeddings and the language head.
#include "fedspallm/base/error.hpp"
#include "fedspallm/model/decoder.hpp"

#include "norms.hpp"
#include "tensor_loading.hpp"
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

namespace fedspallm::model {

using backend::Backend;
using backend::Tensor;
using backend::View;

namespace {

constexpr std::int64_t kChunkRows = 256;
constexpr std::int64_t kChunkLogits = std::int64_t{1} << 24;  // 64 MB in fp32

/// Token embeddings, brought to a backend as they are stored and widened there.
class EmbeddingTable {
 public:
  EmbeddingTable(const ModelDirectory& model, Backend& backend)
      : model_(model), backend_(backend), table_(model.tensor(model.architecture().embedding_name)) {}

  /// @pre 0 <= token < vocab_size; x is tokens.size() x embedding_size
  void look_up(std::span<const std::int32_t> tokens, View x) {
    const Architecture& architecture = model_.architecture();
    const auto row_bytes = static_cast<std::size_t>(architecture.embedding_size) * size_of(table_.dtype());
    rows_.resize(tokens.size() * row_bytes);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      require(0 <= tokens[i] && tokens[i] < architecture.vocab_size, "0 <= token < vocab_size");
      std::memcpy(rows_.data() + i * row_bytes,
                  table_.bytes.data() + static_cast<std::size_t>(tokens[i]) * row_bytes, row_bytes);
    }
    backend_.copy_in_widened(table_.dtype(), rows_, x);
    if (const auto bad = backend_.model().first_non_finite(x))
      throw NumericalError(fmt::format(
          "{}: tensor '{}': row {} holds NaN or infinity", model_.shards()[table_.shard].path().string(),
          architecture.embedding_name, tokens[static_cast<std::size_t>(*bad / x.cols())]));
  }

 private:
  const ModelDirectory& model_;
  Backend& backend_;
  TensorView table_;
  std::vector<std::byte> rows_;
};

}  // namespace

void embed(const ModelDirectory& model, std::span<const std::int32_t> tokens, std::int64_t sequence_length,
           Backend& backend, View x) {
  const Architecture& architecture = model.architecture();
  const auto rows = static_cast<std::int64_t>(tokens.size());
  require(sequence_length > 0 && rows > 0 && rows % sequence_length == 0, "tokens are whole sequences");
  require(x.rows() == rows && x.cols() == architecture.hidden_size, "x is tokens.size() x hidden_size");
  check<ModelError>(
      !architecture.learned_positions || sequence_length <= architecture.max_positions,
      fmt::format("{}: sequences of {} tokens, but the model has {} positions (max_position_embeddings)",
                  model.path().string(), sequence_length, architecture.max_positions));
  const bool projects = !architecture.project_in_name.empty();
  const Tensor project_in = projects ? load_tensor(model, architecture.project_in_name, backend) : Tensor();
  const Tensor narrow = projects ? backend.allocate(sequence_length, architecture.embedding_size) : Tensor();
  const Tensor positions =
      architecture.learned_positions ? load_tensor(model, architecture.position_name, backend) : Tensor();
  const auto length = static_cast<std::size_t>(sequence_length);
  EmbeddingTable table(model, backend);
  for (std::int64_t first = 0; first < rows; first += sequence_length) {
    const View sequence = x.row_range(first, sequence_length);
    table.look_up(tokens.subspan(static_cast<std::size_t>(first), length),
                  projects ? narrow.view() : sequence);
    if (projects) backend.linear().linear(narrow, project_in, View(), sequence, false);
    if (architecture.learned_positions)
      backend.model().add(positions.view().row_range(kPositionOffset, sequence_length), sequence);
  }
}

LanguageHead::LanguageHead(const ModelDirectory& model, Backend& backend)
    : backend_(backend), architecture_(model.architecture()) {
  if (architecture_.final_norm) {
    NormTensors norm = load_norm(model, architecture_.final_norm_name, backend);
    norm_ = std::move(norm.weight);
    norm_bias_ = std::move(norm.bias);
  }
  if (!architecture_.project_out_name.empty())
    project_out_ = load_tensor(model, architecture_.project_out_name, backend);
  head_ = load_tensor(model, architecture_.head_name, backend);
  chunk_rows_ = std::clamp<std::int64_t>(kChunkLogits / architecture_.vocab_size, 1, kChunkRows);
}

void LanguageHead::project(View x, View out) {
  View hidden = x;
  if (architecture_.final_norm) {
    if (hidden_.empty()) hidden_ = backend_.allocate(chunk_rows_, architecture_.hidden_size);
    hidden = hidden_.view().row_range(0, x.rows());
    apply_norm(backend_, architecture_, x, norm_, norm_bias_, hidden);
  }
  if (!project_out_.empty()) {
    if (projected_.empty()) projected_ = backend_.allocate(chunk_rows_, architecture_.embedding_size);
    const View projected = projected_.view().row_range(0, x.rows());
    backend_.linear().linear(hidden, project_out_, View(), projected, false);
    hidden = projected;
  }
  backend_.linear().linear(hidden, head_, View(), out, false);
}

void LanguageHead::token_nll(View x, std::span<const std::int32_t> tokens, std::int64_t sequence_length,
                             std::span<double> nll) {
  const std::int64_t rows = x.rows();
  require(sequence_length > 0 && rows % sequence_length == 0, "x holds whole sequences");
  require(tokens.size() == static_cast<std::size_t>(rows) && nll.size() == tokens.size(),
          "one token and one nll for each row of x");
  std::vector<std::int32_t> targets(tokens.size(), -1);
  for (std::int64_t row = 0; row < rows; ++row) {
    if ((row + 1) % sequence_length != 0)
      targets[static_cast<std::size_t>(row)] = tokens[static_cast<std::size_t>(row) + 1];
  }
  if (logits_.empty()) logits_ = backend_.allocate(chunk_rows_, architecture_.vocab_size);
  for (std::int64_t first = 0; first < rows; first += chunk_rows_) {
    const std::int64_t count = std::min(chunk_rows_, rows - first);
    const View chunk = logits_.view().row_range(0, count);
    project(x.row_range(first, count), chunk);
    const auto begin = static_cast<std::size_t>(first);
    const auto size = static_cast<std::size_t>(count);
    backend_.model().token_nll(chunk, std::span<const std::int32_t>(targets).subspan(begin, size),
                               nll.subspan(begin, size));
  }
  const auto bad =
      std::find_if_not(nll.begin(), nll.end(), [](double value) { return std::isfinite(value); });
  check<NumericalError>(
      bad == nll.end(),
      fmt::format("the negative log-likelihood of token {} is NaN or infinite: so are activations",
                  bad - nll.begin()));
}

void LanguageHead::logits(View x, View logits) {
  require(logits.rows() == x.rows() && logits.cols() == architecture_.vocab_size,
          "logits is x.rows() x vocab_size");
  for (std::int64_t first = 0; first < x.rows(); first += chunk_rows_) {
    const std::int64_t count = std::min(chunk_rows_, x.rows() - first);
    project(x.row_range(first, count), logits.row_range(first, count));
  }
}

}  // namespace fedspallm::model
