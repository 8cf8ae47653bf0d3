// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/prune/block_pruner.hpp"

#include <array>
#include <chrono>
#include <cmath>
#include <optional>

#include "fedspallm/base/error.hpp"

namespace fedspallm::prune {

using model::InputGroup;

namespace {

/// Adds the time of its life to a sum.
class PhaseTimer {
 public:
  explicit PhaseTimer(double& sum) : sum_(sum), start_(std::chrono::steady_clock::now()) {}
  ~PhaseTimer() { sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  double& sum_;
  std::chrono::steady_clock::time_point start_;
};

bool needs_hessian(config::Method method) {
  return method == config::Method::sparsegpt || method == config::Method::wanda;
}

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
      hidden_(backend.allocate(windows.samples * windows.length, model.architecture().hidden_size)) {
  require(windows.samples >= 1 && windows.length == workspace.sequence_length(),
          "BlockPruner: at least one window, of the workspace's sequence length");
  restart(windows);
}

void BlockPruner::restart(const data::Windows& windows) {
  require(windows.samples == sequences_, "BlockPruner::restart: the same number of windows");
  model::embed(model_, windows.tokens, windows.length, backend_, hidden_);
}

template <class Body>
void BlockPruner::for_each_batch(Body body) {
  const std::int64_t rows = hidden_.rows(), step = workspace_.batch_rows();
  for (std::int64_t first = 0; first < rows; first += step) body(first, std::min(step, rows - first));
}

PhaseSeconds BlockPruner::pass_block(const model::BlockWeights& weights) {
  PhaseSeconds seconds;
  const PhaseTimer timer(seconds.forward);
  for_each_batch([&](std::int64_t first, std::int64_t count) {
    workspace_.forward().forward(weights, hidden_.view().row_range(first, count));
  });
  backend_.synchronize();
  return seconds;
}

PhaseSeconds BlockPruner::prune_block(const Settings& settings, std::uint32_t round, model::BlockWeights& weights,
                                      const std::vector<DType>& dtypes, const PreviousMasks& previous, const Sink& sink) {
  const std::size_t count = weights.matrices.size();
  require(dtypes.size() == count, "prune_block: one dtype per matrix");
  require(previous.empty() || previous.size() == count, "prune_block: previous masks for every matrix or none");
  Job job{settings, round, weights, dtypes, previous, sink, MatrixPruner(backend_, settings), {}};
  if (settings.order == config::Order::staged)
    prune_staged(job);
  else
    prune_dense(job);
  return job.seconds;
}

/// qkv pruned -> attention with pruned weights -> o -> gate, up -> down: every product runs once.
void BlockPruner::prune_staged(Job& job) {
  const model::Architecture& architecture = model_.architecture();
  model::BlockForward& forward = workspace_.forward();
  const std::int64_t rows = hidden_.rows();
  const bool hessians = needs_hessian(job.settings.method);
  std::optional<Hessian> hessian;
  const auto begin = [&](std::int64_t columns) {
    hessian.reset();
    if (hessians) hessian.emplace(backend_, columns, sequences_);
  };
  const auto timed = [](double& sum, const auto& body) {
    const PhaseTimer timer(sum);
    body();
  };
  const auto accumulate = [&](backend::View x) {
    if (hessian) timed(job.seconds.hessian, [&] { hessian->add(x); });
  };
  const auto finish = [&](InputGroup group) { prune_group(job, group, hessian ? &*hessian : nullptr); };

  begin(architecture.hidden_size);
  if (hessians) {
    for_each_batch([&](std::int64_t first, std::int64_t count) {
      const backend::View h = workspace_.input(count);
      timed(job.seconds.forward, [&] { forward.attention_input(job.weights, hidden_.view().row_range(first, count), h); });
      accumulate(h);
    });
  }
  finish(InputGroup::qkv);

  const backend::View attended = workspace_.stage(rows, architecture.heads * architecture.head_dim);
  begin(attended.cols());
  for_each_batch([&](std::int64_t first, std::int64_t count) {
    const backend::View a = attended.row_range(first, count);
    timed(job.seconds.forward, [&] {
      const backend::View h = workspace_.input(count);
      forward.attention_input(job.weights, hidden_.view().row_range(first, count), h);
      forward.attention(job.weights, h, a);
    });
    accumulate(a);
  });
  finish(InputGroup::attention_output);

  begin(architecture.hidden_size);
  for_each_batch([&](std::int64_t first, std::int64_t count) {
    const backend::View x = hidden_.view().row_range(first, count), h = workspace_.input(count);
    timed(job.seconds.forward, [&] {
      forward.attention_output(job.weights, attended.row_range(first, count), x);
      if (hessians) forward.mlp_input(job.weights, x, h);
    });
    accumulate(h);
  });
  finish(InputGroup::mlp_in);

  const backend::View inner = workspace_.stage(rows, architecture.intermediate_size);
  begin(inner.cols());
  for_each_batch([&](std::int64_t first, std::int64_t count) {
    const backend::View m = inner.row_range(first, count);
    timed(job.seconds.forward, [&] {
      const backend::View h = workspace_.input(count);
      forward.mlp_input(job.weights, hidden_.view().row_range(first, count), h);
      forward.mlp_hidden(job.weights, h, m);
    });
    accumulate(m);
  });
  finish(InputGroup::mlp_out);
  hessian.reset();

  for_each_batch([&](std::int64_t first, std::int64_t count) {
    timed(job.seconds.forward, [&] {
      forward.mlp_output(job.weights, inner.row_range(first, count), hidden_.view().row_range(first, count));
    });
  });
}

/// The published order: all Hessians of the block from its dense weights; then the pruned block feeds the next.
void BlockPruner::prune_dense(Job& job) {
  const model::Architecture& architecture = model_.architecture();
  model::BlockForward& forward = workspace_.forward();
  std::array<std::optional<Hessian>, model::kInputGroups> hessians;
  if (needs_hessian(job.settings.method)) {
    const std::int64_t attended = architecture.heads * architecture.head_dim;
    const std::array<std::int64_t, model::kInputGroups> columns = {architecture.hidden_size, attended,
                                                                   architecture.hidden_size, architecture.intermediate_size};
    for (std::size_t group = 0; group < hessians.size(); ++group) hessians[group].emplace(backend_, columns[group], sequences_);
    const auto add = [&](InputGroup group, backend::View x) {
      const PhaseTimer timer(job.seconds.hessian);
      hessians[static_cast<std::size_t>(group)]->add(x);
    };
    for_each_batch([&](std::int64_t first, std::int64_t count) {
      double all = 0;
      const double before = job.seconds.hessian;
      {
        const PhaseTimer timer(all);
        const backend::View x = workspace_.hidden_copy(count), h = workspace_.input(count);
        backend_.copy(hidden_.view().row_range(first, count), x);
        forward.attention_input(job.weights, x, h);
        add(InputGroup::qkv, h);
        const backend::View a = workspace_.stage(count, attended);
        forward.attention(job.weights, h, a);
        add(InputGroup::attention_output, a);
        forward.attention_output(job.weights, a, x);
        forward.mlp_input(job.weights, x, h);
        add(InputGroup::mlp_in, h);
        const backend::View m = workspace_.stage(count, architecture.intermediate_size);
        forward.mlp_hidden(job.weights, h, m);
        add(InputGroup::mlp_out, m);
      }
      job.seconds.forward += all - (job.seconds.hessian - before);
    });
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
      const PhaseTimer timer(job.seconds.factorize);
      const std::string name = model_.matrix_name(job.weights.block, matrix);
      diagonal = hessian->diagonal();
      for (std::size_t column = 0; column < diagonal.size(); ++column)
        check<NumericalError>(std::isfinite(diagonal[column]),
                              fmt::format("client '{}', {}: the activations entering this matrix hold NaN or infinity (first "
                                          "in column {}); look at the client's tokens and at the model's weights",
                                          identity_.name, name, column));
      if (job.settings.method == config::Method::sparsegpt) {
        factor = factorize(backend_, *hessian, job.settings.damping, job.settings.count);
        check<NumericalError>(factor.has_value(),
                              fmt::format("client '{}', {}: the Hessian is not positive definite, even with damping {} (x10 "
                                          "up to {} times); give the client more calibration samples or raise prune.damping",
                                          identity_.name, name, job.settings.damping, kMaximumDampingSteps));
      }
    }
    prune_matrix(job, matrix, hessian, factor ? &*factor : nullptr, diagonal, first);
  }
}

void BlockPruner::prune_matrix(Job& job, std::size_t matrix, const Hessian* hessian, const Factor* factor,
                               std::span<const float> diagonal, bool first) {
  const backend::View w = job.weights.matrices[matrix];
  const backend::View mask = workspace_.mask(w.rows(), w.cols());
  backend::View previous;
  if (!job.previous.empty() && !job.previous[matrix].empty()) {
    previous = workspace_.previous_mask(w.rows(), w.cols());
    backend_.sparse().unpack_mask(job.previous[matrix], previous);
  }
  wire::MatrixUpdate update;
  update.unit = {job.round, static_cast<std::uint32_t>(job.weights.block), static_cast<std::uint32_t>(matrix)};
  update.client = identity_.client;
  double seconds = 0;
  {
    const PhaseTimer timer(seconds);
    switch (job.settings.method) {
      case config::Method::sparsegpt: update.report.error = job.pruner.sparsegpt(w, *factor, previous, mask); break;
      case config::Method::wanda: update.report.error = job.pruner.wanda(w, diagonal, previous, mask); break;
      case config::Method::magnitude: update.report.error = job.pruner.magnitude(w, previous, mask); break;
      case config::Method::random: {
        const RandomKey key{identity_.seed, RandomUse::random_pruning, job.round, identity_.client,
                            static_cast<std::uint32_t>(job.weights.block) * 16U + static_cast<std::uint32_t>(matrix)};
        update.report.error = job.pruner.random(w, key, previous, mask);
        break;
      }
    }
    backend_.prune().round_to_dtype(job.dtypes[matrix], w);
    backend_.synchronize();
  }
  job.seconds.prune += seconds;
  const PhaseTimer timer(job.seconds.pack);
  wire::PackedMatrix& packed = update.matrix;
  packed.rows = w.rows();
  packed.cols = w.cols();
  packed.dtype = job.dtypes[matrix];
  packed.bits.resize(static_cast<std::size_t>((w.size() + 63) / 64));
  packed.kept = backend_.sparse().pack(w, mask, packed.dtype, packed.bits, packed.values);
  if (const auto bad = backend_.model().first_non_finite(w))
    throw NumericalError(fmt::format("client '{}', {}: pruning produced NaN or infinity (element {}); raise prune.damping",
                                     identity_.name, model_.matrix_name(job.weights.block, matrix), *bad));
  update.report.seconds = seconds;
  update.report.kept_zeros = wire::count_kept_zeros(packed);
  if (factor != nullptr) {
    update.report.damping = factor->damping;
    update.report.damping_steps = factor->damping_steps;
    update.report.dead_columns = static_cast<std::int64_t>(factor->dead.size());
  }
  if (first && hessian != nullptr && identity_.send_diagonal)
    update.hessian_diagonal.assign(diagonal.begin(), diagonal.end());
  job.sink(matrix, std::move(update));
}

}  // namespace fedspallm::prune
