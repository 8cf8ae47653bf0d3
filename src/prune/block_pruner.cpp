// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/prune/block_pruner.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/wire/device.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string_view>

namespace fedspallm::prune {

using model::InputGroup;

namespace {

/// A device is handed work and goes on with it while the clock of another phase runs. For a time line of the
/// device itself: FEDSPALLM_PHASE_TIMES=1 waits for it wherever a phase begins or ends.
bool phases_are_waited_for() {
  const char* wanted = std::getenv("FEDSPALLM_PHASE_TIMES");
  return wanted != nullptr && std::string_view(wanted) == "1";
}

/// Adds the time of its life to a sum.
class PhaseTimer {
 public:
  PhaseTimer(backend::Backend& backend, double& sum)
      : waited_for_(phases_are_waited_for() ? &backend : nullptr), sum_(sum) {
    if (waited_for_ != nullptr) waited_for_->synchronize();
    start_ = std::chrono::steady_clock::now();
  }
  ~PhaseTimer() {
    try {
      if (waited_for_ != nullptr) waited_for_->synchronize();
    } catch (const Error&) {  // the next op meets the same
    }
    sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  backend::Backend* waited_for_;
  double& sum_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

struct BlockPruner::Job {
  const Settings& settings;
  std::uint32_t round;
  model::BlockWeights& weights;
  const std::vector<DType>& dtypes;
  const PreviousMasks& previous;
  const Sink& sink;
  MatrixPruner pruner;
  PhaseSeconds seconds;
};

BlockPruner::BlockPruner(backend::Backend& backend, const model::ModelDirectory& model, Workspace& workspace,
                         const data::Windows& windows, Identity identity)
    : backend_(backend),
      model_(model),
      workspace_(workspace),
      identity_(std::move(identity)),
      sequences_(windows.samples),
      hidden_(std::make_unique<HiddenStates>(
          backend, windows.samples * windows.length, model.architecture().hidden_size,
          identity_.hidden_on_device ? nullptr : &workspace.hidden_slot())) {
  require(windows.samples >= 1 && windows.length == workspace.sequence_length(),
          "BlockPruner: at least one window, of the workspace's sequence length");
  restart(windows);
}

void BlockPruner::restart(const data::Windows& windows) {
  require(windows.samples == sequences_, "BlockPruner::restart: the same number of windows");
  model::embed(model_, windows.tokens, windows.length, backend_, hidden());
}

template <class Body>
void BlockPruner::for_each_batch(Body body) {
  const std::int64_t rows = hidden_->rows(), step = workspace_.batch_rows();
  for (std::int64_t first = 0; first < rows; first += step) body(first, std::min(step, rows - first));
}

PhaseSeconds BlockPruner::pass_block(const model::BlockWeights& weights) {
  PhaseSeconds seconds;
  const PhaseTimer timer(backend_, seconds.forward);
  for_each_batch([&](std::int64_t first, std::int64_t count) {
    workspace_.forward().forward(weights, hidden().row_range(first, count));
  });
  backend_.synchronize();
  return seconds;
}

PhaseSeconds BlockPruner::prune_block(const Settings& settings, std::uint32_t round,
                                      model::BlockWeights& weights, const std::vector<DType>& dtypes,
                                      const PreviousMasks& previous, const Sink& sink) {
  const std::size_t count = weights.matrices.size();
  require(dtypes.size() == count, "prune_block: one dtype per matrix");
  require(previous.empty() || previous.size() == count,
          "prune_block: previous masks for every matrix or none");
  Job job{settings, round, weights, dtypes, previous, sink, MatrixPruner(backend_, settings), {}};
  if (settings.order == config::Order::staged)
    prune_staged(job);
  else
    prune_dense(job);
  return job.seconds;
}

/// One stage: `input(first, count)` computes the group's input for a batch and returns it; its Hessian prunes
/// the group.
template <class Input>
void BlockPruner::prune_stage(Job& job, InputGroup group, std::int64_t columns, Input input) {
  std::optional<Hessian> hessian;
  if (config::needs_hessian(job.settings.method)) hessian.emplace(backend_, columns, sequences_);
  for_each_batch([&](std::int64_t first, std::int64_t count) {
    backend::View x;
    {
      const PhaseTimer timer(backend_, job.seconds.forward);
      x = input(first, count);
    }
    const PhaseTimer timer(backend_, job.seconds.hessian);
    if (hessian) hessian->add(x);
  });
  prune_group(job, group, hessian ? &*hessian : nullptr);
}

/// qkv pruned -> attention with pruned weights -> o -> gate, up -> down: every product runs once.
void BlockPruner::prune_staged(Job& job) {
  const model::Architecture& architecture = model_.architecture();
  model::BlockForward& forward = workspace_.forward();
  const backend::View states = hidden();

  prune_stage(job, InputGroup::qkv, architecture.hidden_size, [&](std::int64_t first, std::int64_t count) {
    const backend::View h = workspace_.input(count);
    forward.attention_input(job.weights, states.row_range(first, count), h);
    return h;
  });

  const backend::View attended = workspace_.stage(states.rows(), architecture.heads * architecture.head_dim);
  prune_stage(job, InputGroup::attention_output, attended.cols(),
              [&](std::int64_t first, std::int64_t count) {
                const backend::View h = workspace_.input(count), a = attended.row_range(first, count);
                forward.attention_input(job.weights, states.row_range(first, count), h);
                forward.attention(job.weights, h, a);
                return a;
              });

  prune_stage(job, InputGroup::mlp_in, architecture.hidden_size, [&](std::int64_t first, std::int64_t count) {
    const backend::View x = states.row_range(first, count), h = workspace_.input(count);
    forward.attention_output(job.weights, attended.row_range(first, count), x);
    forward.mlp_input(job.weights, x, h);
    return h;
  });

  const backend::View inner = workspace_.stage(states.rows(), architecture.intermediate_size);
  prune_stage(job, InputGroup::mlp_out, inner.cols(), [&](std::int64_t first, std::int64_t count) {
    const backend::View h = workspace_.input(count), m = inner.row_range(first, count);
    forward.mlp_input(job.weights, states.row_range(first, count), h);
    forward.mlp_hidden(job.weights, h, m);
    return m;
  });

  const PhaseTimer timer(backend_, job.seconds.forward);
  for_each_batch([&](std::int64_t first, std::int64_t count) {
    forward.mlp_output(job.weights, inner.row_range(first, count), states.row_range(first, count));
  });
}

/// Adds a batch's inputs of all four groups, computed from the block's dense weights, to their Hessians.
void BlockPruner::add_dense_inputs(Job& job, std::int64_t first, std::int64_t count,
                                   GroupHessians& hessians) {
  const model::Architecture& architecture = model_.architecture();
  model::BlockForward& forward = workspace_.forward();
  double elapsed = 0;
  const double hessian_before = job.seconds.hessian;
  const auto add = [&](InputGroup group, backend::View x) {
    const PhaseTimer timer(backend_, job.seconds.hessian);
    hessians[static_cast<std::size_t>(group)]->add(x);
  };
  {
    const PhaseTimer timer(backend_, elapsed);
    const backend::View x = workspace_.hidden_copy(count), h = workspace_.input(count);
    backend_.copy(hidden().row_range(first, count), x);
    forward.attention_input(job.weights, x, h);
    add(InputGroup::qkv, h);
    const backend::View a = workspace_.stage(count, architecture.heads * architecture.head_dim);
    forward.attention(job.weights, h, a);
    add(InputGroup::attention_output, a);
    forward.attention_output(job.weights, a, x);
    forward.mlp_input(job.weights, x, h);
    add(InputGroup::mlp_in, h);
    const backend::View m = workspace_.stage(count, architecture.intermediate_size);
    forward.mlp_hidden(job.weights, h, m);
    add(InputGroup::mlp_out, m);
  }
  job.seconds.forward += elapsed - (job.seconds.hessian - hessian_before);
}

/// The published order: all Hessians of the block from its dense weights; then the pruned block feeds the
/// next.
void BlockPruner::prune_dense(Job& job) {
  const model::Architecture& architecture = model_.architecture();
  GroupHessians hessians;
  if (config::needs_hessian(job.settings.method)) {
    const std::array<std::int64_t, model::kInputGroups> columns = {
        architecture.hidden_size, architecture.heads * architecture.head_dim, architecture.hidden_size,
        architecture.intermediate_size};
    for (std::size_t group = 0; group < hessians.size(); ++group)
      hessians[group].emplace(backend_, columns[group], sequences_);
    for_each_batch(
        [&](std::int64_t first, std::int64_t count) { add_dense_inputs(job, first, count, hessians); });
  }
  for (std::size_t group = 0; group < hessians.size(); ++group) {
    prune_group(job, static_cast<InputGroup>(group), hessians[group] ? &*hessians[group] : nullptr);
    hessians[group].reset();
  }
  job.seconds.forward += pass_block(job.weights).forward;
}

void BlockPruner::prune_group(Job& job, InputGroup group, const Hessian* hessian) {
  const auto& matrices = model_.architecture().matrices;
  std::vector<float> diagonal;
  std::optional<Factor> factor;
  for (std::size_t matrix = 0; matrix < matrices.size(); ++matrix) {
    if (matrices[matrix].group != group) continue;
    const bool first = diagonal.empty();
    if (hessian != nullptr && first) {
      const PhaseTimer timer(backend_, job.seconds.factorize);
      const std::string name = model_.matrix_name(job.weights.block, matrix);
      diagonal = hessian->diagonal();
      const auto bad = std::find_if_not(diagonal.begin(), diagonal.end(),
                                        [](float value) { return std::isfinite(value); });
      check<NumericalError>(
          bad == diagonal.end(),
          fmt::format("client '{}', {}: the activations entering this matrix hold NaN or infinity (first "
                      "in column {}); {}",
                      identity_.name, name, bad - diagonal.begin(),
                      backend_.products() == backend::Products::f16
                          ? "run.products = \"f16\" has no numbers beyond 65504: \"bf16\" has"
                          : "look at the client's tokens and at the model's weights"));
      if (job.settings.method == config::Method::sparsegpt) {
        factor = factorize(backend_, *hessian, job.settings.damping, job.settings.count);
        check<NumericalError>(
            factor.has_value(),
            fmt::format("client '{}', {}: the Hessian is not positive definite, even with damping {} (x10 "
                        "up to {} times); give the client more calibration samples or raise prune.damping",
                        identity_.name, name, job.settings.damping, kMaximumDampingSteps));
      }
    }
    prune_matrix(job, matrix, factor ? &*factor : nullptr, diagonal, first);
  }
}

double BlockPruner::apply_method(Job& job, std::size_t matrix, const Factor* factor,
                                 std::span<const float> diagonal, backend::View mask) {
  const backend::View w = job.weights.matrices[matrix];
  backend::View previous;
  if (!job.previous.empty() && !job.previous[matrix].empty()) {
    previous = workspace_.previous_mask(w.rows(), w.cols());
    backend_.sparse().unpack_mask(job.previous[matrix], previous);
  }
  switch (job.settings.method) {
    case config::Method::sparsegpt:
      return job.pruner.sparsegpt(w, *factor, previous, mask);
    case config::Method::wanda:
      return job.pruner.wanda(w, diagonal, previous, mask);
    case config::Method::magnitude:
      return job.pruner.magnitude(w, previous, mask);
    case config::Method::random:
      break;
  }
  const auto stream =
      static_cast<std::uint32_t>(job.weights.block * static_cast<std::int64_t>(job.dtypes.size())) +
      static_cast<std::uint32_t>(matrix);
  const RandomKey key{identity_.seed, RandomUse::random_pruning, job.round, identity_.client, stream};
  return job.pruner.random(w, key, previous, mask);
}

void BlockPruner::pack(backend::View w, backend::View mask, wire::MatrixUpdate& update) {
  wire::PackedMatrix& packed = update.matrix;
  packed.bits.resize(static_cast<std::size_t>(wire::mask_words(w.size())));
  packed.kept = backend_.sparse().pack(w, mask, packed.dtype, packed.bits, packed.values);
  update.report.kept_zeros = wire::count_kept_zeros(packed);
}

/// Room for the whole message; whoever sends it writes header and diagonal.
void BlockPruner::pack_on_device(backend::View w, backend::View mask, wire::MatrixUpdate& update) {
  const auto device = std::make_shared<wire::DeviceUpdate>();
  const auto packed = backend_.updates().pack(w, mask, update.matrix.dtype, [&](std::int64_t kept) {
    const wire::DeviceLayout layout =
        wire::device_layout(w.rows(), w.cols(), kept, update.matrix.dtype, !update.hessian_diagonal.empty());
    device->memory = backend_.updates().allocate(layout.bytes);
    return backend::UpdateOps::Place{device->memory.get() + layout.bits,
                                     device->memory.get() + layout.values};
  });
  device->largest = packed.largest;
  update.matrix.kept = packed.kept;
  update.report.kept_zeros = packed.kept_zeros;
  update.device = device;
}

void BlockPruner::prune_matrix(Job& job, std::size_t matrix, const Factor* factor,
                               std::span<const float> diagonal, bool first) {
  const backend::View w = job.weights.matrices[matrix];
  const backend::View mask = workspace_.mask(w.rows(), w.cols());
  wire::MatrixUpdate update;
  update.unit = {job.round, static_cast<std::uint32_t>(job.weights.block),
                 static_cast<std::uint32_t>(matrix)};
  update.client = identity_.client;
  {
    const PhaseTimer timer(backend_, update.report.seconds);
    update.report.error = apply_method(job, matrix, factor, diagonal, mask);
    backend_.prune().round_to_dtype(job.dtypes[matrix], w);
    if (const auto bad = backend_.model().first_non_finite(w))
      throw NumericalError(
          fmt::format("client '{}', {}: pruning produced NaN or infinity (element {}); raise prune.damping",
                      identity_.name, model_.matrix_name(job.weights.block, matrix), *bad));
  }
  job.seconds.prune += update.report.seconds;
  if (first && identity_.send_diagonal) update.hessian_diagonal.assign(diagonal.begin(), diagonal.end());
  {
    const PhaseTimer timer(backend_, job.seconds.pack);
    update.matrix.rows = w.rows();
    update.matrix.cols = w.cols();
    update.matrix.dtype = job.dtypes[matrix];
    if (identity_.stay_on_device) {
      pack_on_device(w, mask, update);
    } else {
      pack(w, mask, update);
    }
  }
  if (factor != nullptr) {
    update.report.damping = factor->damping;
    update.report.damping_steps = factor->damping_steps;
    update.report.dead_columns = static_cast<std::int64_t>(factor->dead.size());
  }
  job.sink(matrix, std::move(update));
}

}  // namespace fedspallm::prune
