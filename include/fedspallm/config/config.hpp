// SPDX-License-Identifier: Apache-2.0
// Purpose: the configuration as one validated struct (design.md section 5). Parsing checks every key, type
// and range, names file, line and nearest key on error, and resolves relative paths against the config's
// folder. Non-goal: whether the files exist and fit together; that is checked where they are opened.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::config {

enum class BackendKind { automatic, cpu, cuda, reference };
enum class Method { sparsegpt, wanda, magnitude, random };
/// Whether it looks at activations.
[[nodiscard]] constexpr bool needs_hessian(Method method) {
  return method == Method::sparsegpt || method == Method::wanda;
}
enum class Order { staged, block };
enum class Count { exact, published };
enum class Sampling { random, sequential };
enum class Aggregation { l0, mean, none };
enum class Tie { score, magnitude, index };
enum class TransportKind { automatic, reduce, gather, nccl };
enum class TopologyKind { automatic, root, owners, nodes };
enum class LayerSampling { none, resources };
enum class Coverage { required, warn };
enum class OnClientFailure { abort, drop };
/// How the operands of the products of activations are taken (backend::Products).
enum class Products { f32, f16, bf16 };
enum class ModelDType { stored, float32 };
enum class ModelShape { of_path, smollm2_135m, llama2_7b, llama2_70b };
enum class Placement { all, workers };

/// "unstructured" or N:M (keep N of every M consecutive weights of a row).
struct Pattern {
  int keep = 0;   // N; 0 = unstructured
  int group = 0;  // M; 0 = unstructured
  [[nodiscard]] bool structured() const { return group > 0; }
  [[nodiscard]] bool operator==(const Pattern&) const = default;
};

struct Model {
  std::filesystem::path path;
  ModelDType dtype = ModelDType::stored;
  [[nodiscard]] bool operator==(const Model&) const = default;
};
struct Run {
  std::filesystem::path dir;
  std::uint64_t seed = 1;
  BackendKind backend = BackendKind::automatic;
  int threads = 0;            // 0 = cores given to this rank
  bool keep_clients = false;  // clients/NAME.h5
  int checkpoint_every = 0;   // blocks between two saved states of a client; 0 = as often as costs < 2 %
  double grace_seconds = 30;  // from a signal to the end; then what is on disk has to do
  Products products = Products::f32;  // f16: on a GPU; bf16: there, or on a CPU with AVX512-BF16
  [[nodiscard]] bool operator==(const Run&) const = default;
};
struct Prune {
  Method method = Method::sparsegpt;
  double sparsity = 0.5;  // 1 - N/M when the pattern is N:M
  Pattern pattern;
  std::int64_t block_size = 128;
  double damping = 0.01;
  Order order = Order::staged;
  Count count = Count::exact;
  [[nodiscard]] bool operator==(const Prune&) const = default;
};
struct Calibration {
  std::int64_t samples = 16;
  std::int64_t sequence_length = 512;
  Sampling sampling = Sampling::random;
  [[nodiscard]] bool operator==(const Calibration&) const = default;
};
struct Federation {
  int rounds = 1;
  Aggregation aggregation = Aggregation::l0;
  bool mask_expansion = true;
  Tie tie = Tie::score;
  TransportKind transport = TransportKind::automatic;
  TopologyKind topology = TopologyKind::automatic;
  LayerSampling layer_sampling = LayerSampling::none;
  Coverage coverage = Coverage::required;
  std::int64_t chunk_bytes = 1 << 20;  // of the reduce transport: 64 KiB .. 1 GiB
  OnClientFailure on_client_failure = OnClientFailure::abort;
  double deadline = 0;  // seconds that a client may be later than another one with a block; 0 = none
  [[nodiscard]] bool operator==(const Federation&) const = default;
};
struct Report {
  bool standalone = false;
  [[nodiscard]] bool operator==(const Report&) const = default;
};
struct Client {
  std::string name;
  std::vector<std::filesystem::path> tokens;  // one or more files, used one after the other
  double resources = 1.0;
  std::optional<std::int64_t> samples;  // else calibration.samples
  std::optional<int> rank;              // else index mod ranks
  [[nodiscard]] bool operator==(const Client&) const = default;
};
struct Evaluation {
  std::string name;
  std::filesystem::path tokens;
  std::optional<std::int64_t> samples;  // else all whole windows
  std::int64_t sequence_length = 512;
  [[nodiscard]] bool operator==(const Evaluation&) const = default;
};

/// `fedspallm simulate`: virtual clients in place of [[client]], by seeded laws.
struct Simulate {
  std::int64_t clients = 100;
  ModelShape shape = ModelShape::of_path;  // shapes of model.path, or of a model known by name
  std::int64_t blocks = 1;                 // that are really sent and merged; the virtual clock runs over all
  Placement placement = Placement::all;    // ranks that host clients: all, or all but rank 0
  bool checkpoint = false;                 // write merged blocks below run.dir, which holds no run of prune
  std::vector<std::int64_t> fit = {};      // numbers of clients from which the performance model is fitted
  std::vector<std::int64_t> held_out = {};  // further ones, to compare its forecast with
  std::int64_t repeats = 3;                 // of each of these; the median counts
  // Laws, of virtual time only. Rates are those of the median client and of one link.
  double flops = 100e12;           // a second
  double spread = 0.25;            // sigma of the logarithm of clients' speeds
  double jitter = 0.05;            // sigma of the logarithm of a client's times from block to block
  double stragglers = 0;           // share of clients that are slower ...
  double straggler_factor = 4;     // ... by this
  double dropouts = 0;             // share of clients that leave in the middle of the round
  double least_resources = 1;      // resources are uniform from here to 1
  double link_bytes = 1.2e9;       // a second
  double latency = 200e-6;         // seconds per message
  std::int64_t gpus_per_node = 8;  // of forecasts, one rank each
  [[nodiscard]] bool operator==(const Simulate&) const = default;
};

struct Config {
  std::filesystem::path file;  // absolute path of the file read
  Model model;
  Run run;
  Prune prune;
  Calibration calibration;
  Federation federation;
  Report report;
  std::vector<Client> clients;
  std::vector<Evaluation> evaluations;
  std::optional<Simulate> simulate;  // where the file or a setting has some of it
  [[nodiscard]] bool operator==(const Config&) const = default;
};

/// Reads and validates a file, then applies `key=value` settings (TOML values; dotted keys; a bare word is
/// taken as a string; client.NAME.key and evaluation.NAME.key address list entries by the name they have in
/// the file). A setting replaces the file's value before that is checked, and the last of equal settings
/// counts.
/// @throws ConfigError with one line for each problem of the file and the settings, in the order of the file:
///   "FILE:LINE: KEY: found X, expected Y", "FILE:LINE: unknown key 'KEY'; did you mean 'KEY'?"; a problem of
///   a setting starts with "--set key=value" instead of FILE:LINE, a TOML syntax error with FILE:LINE:COLUMN.
[[nodiscard]] Config load(const std::filesystem::path& file, const std::vector<std::string>& settings = {});
/// The same from text; `file` is used for messages and relative paths.
[[nodiscard]] Config parse(const std::string& text, const std::filesystem::path& file,
                           const std::vector<std::string>& settings = {});
/// Every key with its value, as TOML that parse() reads back to an equal Config (paths absolute, `file`
/// apart).
[[nodiscard]] std::string to_toml(const Config& config);

/// What `prune` needs and a configuration for `simulate` may lack. @throws ConfigError naming it
void check_prunable(const Config& config);

/// What a person may want to know about a valid configuration: settings without effect, results that nobody
/// asked for. For the log; never a reason to stop.
[[nodiscard]] std::vector<std::string> remarks(const Config& config);

/// The full name of every key: "model.path", ..., "client.NAME.tokens", "evaluation.NAME.samples".
[[nodiscard]] std::vector<std::string> known_keys();

/// Sparsity asked of round r = 1..R: s (1 - (1 - r/R)^3) (rulings.md 9). @pre 1 <= round <= federation.rounds
[[nodiscard]] double sparsity_of_round(const Config& config, int round);

/// A value as the file spells it. @throws LogicError for a number that is no enumerator
[[nodiscard]] std::string_view name_of(BackendKind value);
[[nodiscard]] std::string_view name_of(Method value);
[[nodiscard]] std::string_view name_of(Order value);
[[nodiscard]] std::string_view name_of(Count value);
[[nodiscard]] std::string_view name_of(Sampling value);
[[nodiscard]] std::string_view name_of(Aggregation value);
[[nodiscard]] std::string_view name_of(Tie value);
[[nodiscard]] std::string_view name_of(TransportKind value);
[[nodiscard]] std::string_view name_of(TopologyKind value);
[[nodiscard]] std::string_view name_of(LayerSampling value);
[[nodiscard]] std::string_view name_of(Coverage value);
[[nodiscard]] std::string_view name_of(OnClientFailure value);
[[nodiscard]] std::string_view name_of(ModelDType value);
[[nodiscard]] std::string_view name_of(ModelShape value);
[[nodiscard]] std::string_view name_of(Placement value);
[[nodiscard]] std::string_view name_of(Products value);
/// "unstructured" or "N:M".
[[nodiscard]] std::string name_of(const Pattern& pattern);

}  // namespace fedspallm::config
