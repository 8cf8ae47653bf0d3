// SPDX-License-Identifier: Apache-2.0
// Purpose: one client's walk through the decoder blocks: forward pass, Hessians, pruning, one block at a time
// (orders "staged" and "block" of design.md section 2). Non-goals: MPI and files (finished matrices go to a
// sink), merging, rounds. Memory: the block's weights, the client's hidden states, the activations of one
// stage, the block's Hessians.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/data/tokens.hpp"
#include "fedspallm/model/decoder.hpp"
#include "fedspallm/prune/hidden_states.hpp"
#include "fedspallm/prune/methods.hpp"
#include "fedspallm/wire/update.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::prune {

/// Tensors that all clients of a rank use one after the other: batches and the activations of one stage.
class Workspace {
 public:
  /// Batches have as many rows as the backend asks for, but at least one sequence.
  Workspace(backend::Backend& backend, const model::Architecture& architecture, std::int64_t sequence_length);

  [[nodiscard]] std::int64_t batch_rows() const { return batch_rows_; }
  [[nodiscard]] std::int64_t sequence_length() const { return sequence_length_; }
  [[nodiscard]] model::BlockForward& forward() { return forward_; }
  /// batch_rows x hidden.
  [[nodiscard]] backend::View input(std::int64_t rows) { return input_.view().row_range(0, rows); }
  /// At least rows x cols of activations of a whole stage; contents are lost from stage to stage.
  [[nodiscard]] backend::View stage(std::int64_t rows, std::int64_t cols);
  /// u8 mask, rows x cols.
  [[nodiscard]] backend::View mask(std::int64_t rows, std::int64_t cols);
  [[nodiscard]] backend::View previous_mask(std::int64_t rows, std::int64_t cols);
  /// For clients whose hidden states rest in host memory.
  [[nodiscard]] HiddenSlot& hidden_slot() { return hidden_slot_; }
  /// A batch's copy of hidden states (order = block).
  [[nodiscard]] backend::View hidden_copy(std::int64_t rows);

 private:
  backend::Backend& backend_;
  const model::Architecture& architecture_;
  std::int64_t sequence_length_;
  std::int64_t batch_rows_;
  model::BlockForward forward_;
  backend::Tensor input_, stage_, mask_, previous_mask_, hidden_copy_;
  HiddenSlot hidden_slot_{backend_};
};

/// Seconds that a client spent on a block, by phase.
struct PhaseSeconds {
  double forward = 0, hessian = 0, factorize = 0, prune = 0, pack = 0;
  [[nodiscard]] double total() const { return forward + hessian + factorize + prune + pack; }
};

/// Mask bits of earlier rounds for each matrix of a block; empty vectors where nothing was dropped before.
using PreviousMasks = std::vector<std::vector<std::uint64_t>>;

class BlockPruner {
 public:
  /// Called with the matrix' index in the block and its update, in the architecture's order.
  using Sink = std::function<void(std::size_t matrix, wire::MatrixUpdate update)>;

  struct Identity {
    std::uint32_t client = 0;
    std::string name;
    std::uint64_t seed = 1;
    bool send_diagonal = true;     // first matrix of each input group carries diag(H)
    bool hidden_on_device = true;  // else they rest in host memory while other clients are at work
    bool stay_on_device = false;   // updates stay in the backend's memory (MatrixUpdate::device)
  };

  /// Embeds the windows. `model`, `backend` and `workspace` must outlive this. @pre windows.length ==
  /// workspace.sequence_length()
  BlockPruner(backend::Backend& backend, const model::ModelDirectory& model, Workspace& workspace,
              const data::Windows& windows, Identity identity);

  /// Prunes the block in `weights` (in place, for this client's own forward pass), advances the hidden states
  /// and hands each matrix to `sink`. @throws NumericalError naming client and matrix or tensor
  PhaseSeconds prune_block(const Settings& settings, std::uint32_t round, model::BlockWeights& weights,
                           const std::vector<DType>& dtypes, const PreviousMasks& previous, const Sink& sink);
  /// Advances the hidden states through a block that this client does not prune.
  PhaseSeconds pass_block(const model::BlockWeights& weights);

  /// On the device; good until another client of the workspace is at work.
  [[nodiscard]] backend::View hidden() { return hidden_->view(); }
  [[nodiscard]] std::int64_t hidden_rows() const { return hidden_->rows(); }
  [[nodiscard]] std::int64_t hidden_cols() const { return hidden_->cols(); }
  /// Back to the embedding, for the next round.
  void restart(const data::Windows& windows);

 private:
  struct Job;  // one prune_block call
  template <class Body>
  void for_each_batch(Body body);
  using GroupHessians = std::array<std::optional<Hessian>, model::kInputGroups>;
  template <class Input>
  void prune_stage(Job& job, model::InputGroup group, std::int64_t columns, Input input);
  void prune_staged(Job& job);
  void add_dense_inputs(Job& job, std::int64_t first, std::int64_t count, GroupHessians& hessians);
  void prune_dense(Job& job);
  void prune_group(Job& job, model::InputGroup group, const Hessian* hessian);
  double apply_method(Job& job, std::size_t matrix, const Factor* factor, std::span<const float> diagonal,
                      backend::View mask);
  void pack(backend::View w, backend::View mask, wire::MatrixUpdate& update);
  void pack_on_device(backend::View w, backend::View mask, wire::MatrixUpdate& update);
  void prune_matrix(Job& job, std::size_t matrix, const Factor* factor, std::span<const float> diagonal,
                    bool first);

  backend::Backend& backend_;
  const model::ModelDirectory& model_;
  Workspace& workspace_;
  Identity identity_;
  std::int64_t sequences_;
  std::unique_ptr<HiddenStates> hidden_;  // (samples * length) x hidden
};

}  // namespace fedspallm::prune
