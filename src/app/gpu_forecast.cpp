// SPDX-License-Identifier: Apache-2.0
#include "gpu_forecast.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/model/decoder.hpp"

#include "plan.hpp"
#include <algorithm>
#include <numeric>

namespace fedspallm::app {

namespace {

constexpr std::int64_t kFloat = 4;
constexpr std::int64_t kMega = std::int64_t{1} << 20;
constexpr std::int64_t kScores = 64 * kMega;  // as attention_bytes of backend/cuda/geometry.hpp
constexpr std::int64_t kConversion = 2 * (std::int64_t{1} << 24);  // widen_chunk there, 16-bit elements
constexpr std::int64_t kProductWorkspace = 32 * kMega;             // blas_workspace_bytes there
constexpr std::int64_t kContext = 700 * kMega;                     // driver, cuBLAS, cuSOLVER, code
constexpr std::int64_t kNccl = 300 * kMega;                        // its buffers
constexpr std::int64_t kUpdatesAtOnce = 3;                         // as comm's receive buffer

std::int64_t batch_rows(const GpuWork& work) {
  return model::rows_of_batch(work.sequence_length, backend::kDeviceRowsPerBatch);
}

struct Shapes {
  std::int64_t attended = 0, keys = 0, weights = 0, largest = 0, largest_rows = 0;
  std::vector<std::int64_t> columns;  // of each input group
};

Shapes shapes_of(const model::Architecture& architecture) {
  Shapes shapes;
  shapes.attended = architecture.heads * architecture.head_dim;
  shapes.keys = architecture.kv_heads * architecture.head_dim;
  for (const model::MatrixShape& matrix : architecture.matrices) {
    shapes.weights += matrix.rows * matrix.cols;
    shapes.largest = std::max(shapes.largest, matrix.rows * matrix.cols);
    shapes.largest_rows = std::max(shapes.largest_rows, matrix.rows);
  }
  shapes.columns = {architecture.hidden_size, shapes.attended, architecture.hidden_size,
                    architecture.intermediate_size};
  return shapes;
}

std::int64_t packed_bytes(const GpuWork& work, std::int64_t weights) {
  return weights / 8 +
         static_cast<std::int64_t>(static_cast<double>(weights) * (1 - work.sparsity)) * work.value_bytes;
}

std::int64_t activation_bytes(const model::Architecture& architecture, const GpuWork& work,
                              const Shapes& shapes) {
  const std::int64_t batch = batch_rows(work);
  const std::int64_t tokens =
      work.tokens.empty() ? 0 : *std::max_element(work.tokens.begin(), work.tokens.end());
  const bool staged = work.order == config::Order::staged;
  const bool gated = architecture.mlp == model::MlpKind::gated_silu;
  std::int64_t per_token = architecture.hidden_size             // input
                           + shapes.attended + 2 * shapes.keys  // q, k, v
                           + (gated ? architecture.intermediate_size : 0);
  // A whole forward pass (blocks that a client does not prune, order = "block") has tensors of its own.
  per_token += architecture.hidden_size + shapes.attended + architecture.intermediate_size;
  if (!staged) per_token += architecture.hidden_size;  // the copy of a batch
  const std::int64_t stage = staged ? tokens : batch;
  const std::int64_t scores =
      work.method == config::Method::sparsegpt ? 2 * shapes.largest_rows * work.block_size : shapes.largest;
  return kFloat * (batch * per_token + stage * std::max(shapes.attended, architecture.intermediate_size) +
                   scores + work.sequence_length * architecture.head_dim);
}

std::int64_t hessian_bytes(const GpuWork& work, const Shapes& shapes) {
  if (!config::needs_hessian(work.method)) return 0;
  const auto square = [](std::int64_t n) { return n * n * kFloat; };
  const std::int64_t largest = *std::max_element(shapes.columns.begin(), shapes.columns.end());
  std::int64_t bytes = square(largest);
  if (work.order == config::Order::block)
    bytes = std::accumulate(shapes.columns.begin(), shapes.columns.end(), std::int64_t{0},
                            [&](std::int64_t sum, std::int64_t n) { return sum + square(n); });
  return bytes + (work.method == config::Method::sparsegpt ? square(largest) : 0);  // U
}

/// Ops share one workspace, which is as large as the largest of them needs.
std::int64_t workspace_bytes(const model::Architecture& architecture, const GpuWork& work,
                             const Shapes& shapes) {
  const std::int64_t largest = *std::max_element(shapes.columns.begin(), shapes.columns.end());
  const bool narrowed = work.products != config::Products::f32;
  std::int64_t attention = std::max(kScores, 16 * work.sequence_length * architecture.heads * kFloat);
  if (narrowed)  // its weights; queries, keys and values of a sequence
    attention += attention / 2 + 2 * work.sequence_length * (shapes.attended + 2 * shapes.keys);
  const std::int64_t packing = shapes.largest / 8 + shapes.largest * work.value_bytes + shapes.largest / 256;
  const std::int64_t narrow =
      narrowed ? 2 * (batch_rows(work) * architecture.intermediate_size + shapes.largest) : 0;
  const bool factorizes = work.method == config::Method::sparsegpt;
  const std::int64_t matrix = factorizes ? largest * largest * kFloat : 0;
  return std::max({matrix, attention, packing, narrow}) + kConversion + kProductWorkspace;
}

}  // namespace

GpuWork gpu_work(const config::Config& config, const model::ModelDirectory& model,
                 const std::vector<int>& rank_of_client, int rank, bool on_device) {
  GpuWork work;
  work.sequence_length = config.calibration.sequence_length;
  for (std::size_t client = 0; client < config.clients.size(); ++client)
    if (rank_of_client[client] == rank)
      work.tokens.push_back(config.clients[client].samples.value_or(config.calibration.samples) *
                            work.sequence_length);
  work.block_size = config.prune.block_size;
  work.method = config.prune.method;
  work.order = config.prune.order;
  work.products = config.run.products;
  work.sparsity = config.prune.sparsity;
  work.value_bytes = static_cast<std::int64_t>(size_of(wire_dtype(config, model, 0, 0)));
  for (std::size_t matrix = 0; matrix < model.architecture().matrices.size(); ++matrix) {
    const model::MatrixShape& shape = model.architecture().matrices[matrix];
    work.stored_block_bytes +=
        shape.rows * shape.cols * static_cast<std::int64_t>(size_of(model.matrix_dtype(0, matrix)));
  }
  work.later_rounds = config.federation.rounds > 1;
  work.updates_on_device = on_device;
  work.merges_on_device = on_device && rank == 0;
  work.vote_bytes = config.clients.size() < (1U << 8) ? 1 : config.clients.size() < (1U << 16) ? 2 : 4;
  return work;
}

std::int64_t GpuForecast::all_hidden() const {
  return std::accumulate(hidden.begin(), hidden.end(), std::int64_t{0});
}

std::int64_t GpuForecast::least() const {
  return fixed() + (hidden.empty() ? 0 : *std::max_element(hidden.begin(), hidden.end()));
}

GpuForecast forecast_gpu(const model::Architecture& architecture, const GpuWork& work) {
  require(work.sequence_length >= 1, "forecast_gpu: sequence_length >= 1");
  const Shapes shapes = shapes_of(architecture);
  GpuForecast result;
  for (const std::int64_t tokens : work.tokens) {
    require(tokens >= 0, "forecast_gpu: numbers of tokens >= 0");
    result.hidden.push_back(tokens * architecture.hidden_size * kFloat);
  }
  if (!work.tokens.empty()) {
    const std::int64_t largest = *std::max_element(shapes.columns.begin(), shapes.columns.end());
    result.weights = shapes.weights * kFloat + shapes.largest * (work.later_rounds ? 2 : 1);
    result.activations = activation_bytes(architecture, work, shapes);
    result.hessian = hessian_bytes(work, shapes);
    result.workspace = workspace_bytes(architecture, work, shapes);
    result.allowance = kContext;
    result.ahead = 2 * work.stored_block_bytes;
    // cuSOLVER says what it needs only on a device: as much as the matrix is taken.
    if (work.method == config::Method::sparsegpt) result.allowance += largest * largest * kFloat;
  }
  const auto clients = static_cast<std::int64_t>(work.tokens.size());
  if (work.updates_on_device) {
    result.transfer = comm::ExchangeOptions().window_blocks * clients * packed_bytes(work, shapes.weights);
    result.allowance += kNccl;
  }
  if (work.merges_on_device)  // sums and counts of the matrix being merged, averages, votes and bits;
                              // arrivals
    result.transfer += (12 + work.value_bytes + work.vote_bytes) * shapes.largest + shapes.largest / 8 +
                       kUpdatesAtOnce * packed_bytes(work, shapes.largest);
  return result;
}

std::optional<HiddenPlacement> place_hidden(const std::vector<std::int64_t>& hidden, std::int64_t room) {
  HiddenPlacement placement;
  placement.on_device.assign(hidden.size(), true);
  std::int64_t all = 0;
  for (const std::int64_t bytes : hidden) all += bytes;
  placement.device_bytes = all;
  if (all <= room) return placement;
  // From the last client on, until those that are left and a slot for the largest of the others fit.
  std::int64_t staying = all, slot = 0;
  for (std::size_t i = hidden.size(); i-- > 0;) {
    staying -= hidden[i];
    slot = std::max(slot, hidden[i]);
    placement.on_device[i] = false;
    placement.host_bytes += hidden[i];
    placement.device_bytes = staying + slot;
    if (placement.device_bytes <= room) return placement;
  }
  return std::nullopt;
}

GpuPlan plan_gpu(const GpuForecast& forecast, std::int64_t memory) {
  GpuPlan plan;
  const std::int64_t room = memory - forecast.fixed();
  auto placement = place_hidden(forecast.hidden, room - forecast.ahead);
  plan.load_ahead = placement.has_value();
  if (!placement) placement = place_hidden(forecast.hidden, room);
  plan.fits = placement.has_value();
  if (!placement) {  // as little as can be
    placement.emplace();
    placement->on_device.assign(forecast.hidden.size(), false);
    placement->host_bytes = forecast.all_hidden();
    placement->device_bytes = forecast.least() - forecast.fixed();
  }
  plan.hidden = *placement;
  plan.peak_bytes = forecast.fixed() + plan.hidden.device_bytes + (plan.load_ahead ? forecast.ahead : 0);
  return plan;
}

std::string to_text(int rank, const GpuForecast& forecast, std::int64_t memory) {
  const auto gigabytes = [](std::int64_t bytes) {
    return fmt::format("{:.2f}", static_cast<double>(bytes) / 1e9);
  };
  std::string text = fmt::format(
      "GPU of rank {}, GB: weights {}, activations {}, hessian {}, workspace {}, transfer {}, driver and "
      "libraries {} (a guess), two blocks as stored {}, hidden states {} of {} clients\n",
      rank, gigabytes(forecast.weights), gigabytes(forecast.activations), gigabytes(forecast.hessian),
      gigabytes(forecast.workspace), gigabytes(forecast.transfer), gigabytes(forecast.allowance),
      gigabytes(forecast.ahead), gigabytes(forecast.all_hidden()), forecast.hidden.size());
  if (memory == 0)
    return text + fmt::format("  {} GB keep all hidden states on the GPU, {} GB one client's at a time\n",
                              gigabytes(forecast.most()), gigabytes(forecast.least()));
  const GpuPlan plan = plan_gpu(forecast, memory);
  if (!plan.fits)
    return text + fmt::format("  does not fit: {} GB are needed, {} GB are there\n",
                              gigabytes(plan.peak_bytes), gigabytes(memory));
  const auto staying = std::count(plan.hidden.on_device.begin(), plan.hidden.on_device.end(), true);
  return text + fmt::format(
                    "  hidden states of {} of {} clients stay on the GPU, {} GB rest in host memory; "
                    "weights come {}; peak {} of {} GB\n",
                    staying, forecast.hidden.size(), gigabytes(plan.hidden.host_bytes),
                    plan.load_ahead ? "a block ahead" : "when they are wanted", gigabytes(plan.peak_bytes),
                    gigabytes(memory));
}

}  // namespace fedspallm::app
