// SPDX-License-Identifier: Apache-2.0
#include "checks.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <cmath>
#include <map>

namespace fedspallm::config {

namespace {

constexpr double kSameSparsity = 1e-6;  // as counts take it (rulings.md 4)

void check_pattern(Prune& prune, const Section& section, Problems& problems) {
  if (!prune.pattern.structured() || section.refused("pattern")) return;
  const auto [keep, group] = prune.pattern;
  const double implied = static_cast<double>(group - keep) / group;
  if (section.find("sparsity") != nullptr && !section.refused("sparsity") &&
      !(std::abs(prune.sparsity - implied) <= kSameSparsity))
    problems.add(
        section.origin_of("sparsity"),
        fmt::format(
            "prune.sparsity: found {}, expected {} (pattern \"{}\" means 1 - {}/{}); leave it out or change "
            "the pattern",
            prune.sparsity, implied, name_of(prune.pattern), keep, group));
  prune.sparsity = implied;
  if (!section.refused("block_size") && prune.block_size % group != 0)
    problems.add(section.origin_of(section.find("block_size") != nullptr ? "block_size" : "pattern"),
                 fmt::format("prune.block_size: found {}, expected a multiple of {} (pattern \"{}\")",
                             prune.block_size, group, name_of(prune.pattern)));
}

void check_prune(Prune& prune, const Section& section, Problems& problems) {
  check_pattern(prune, section, problems);
  if (prune.count == Count::published && prune.method != Method::sparsegpt && !section.refused("method"))
    problems.add(
        section.origin_of("count"),
        fmt::format(
            "prune.count: found \"published\", expected \"exact\" (method \"{}\" has no published way of "
            "counting here; only \"sparsegpt\" has)",
            name_of(prune.method)));
}

/// Who merges, and what travels there, must go together.
void check_topology(const Federation& federation, const Section& section, Problems& problems) {
  if (federation.topology == TopologyKind::owners &&
      (federation.transport == TransportKind::reduce || federation.transport == TransportKind::nccl))
    problems.add(
        section.origin_of("topology"),
        fmt::format("federation.topology: found \"owners\" with transport \"{}\", expected transport "
                    "\"auto\" or \"gather\" (owners are sent slices of clients' updates)",
                    name_of(federation.transport)));
  if (federation.topology == TopologyKind::nodes &&
      (federation.transport == TransportKind::gather || federation.transport == TransportKind::nccl))
    problems.add(section.origin_of("topology"),
                 fmt::format("federation.topology: found \"nodes\" with transport \"{}\", expected transport "
                             "\"auto\" or \"reduce\" (nodes pass on sums)",
                             name_of(federation.transport)));
  if (federation.topology == TopologyKind::nodes && federation.deadline > 0)
    problems.add(
        section.origin_of("deadline"),
        fmt::format("federation.deadline: found {}, expected 0 (with topology \"nodes\" ranks add to one "
                    "sum, so none can be late alone; use \"root\" or \"owners\")",
                    federation.deadline));
}

void check_federation(const Config& config, Document& document, Problems& problems) {
  const Federation& federation = config.federation;
  const Section& section = document.single("federation");
  if (federation.aggregation == Aggregation::none && federation.rounds > 1)
    problems.add(section.origin_of("rounds"),
                 fmt::format("federation.rounds: found {}, expected 1 (aggregation \"none\" merges nothing "
                             "that a second round "
                             "could start from)",
                             federation.rounds));
  if (federation.deadline > 0 && federation.transport == TransportKind::reduce)
    problems.add(
        section.origin_of("deadline"),
        fmt::format("federation.deadline: found {}, expected 0 (with transport \"reduce\" the ranks' "
                    "sums pass through each other, so none can be late alone; use \"gather\")",
                    federation.deadline));
  check_topology(federation, section, problems);
  const bool on_host = config.run.backend == BackendKind::cpu || config.run.backend == BackendKind::reference;
  if (config.run.products == Products::f16 && config.run.backend == BackendKind::cpu)
    problems.add(
        document.single("run").origin_of("products"),
        "run.products: found \"f16\", expected \"f32\" or \"bf16\" (run.backend is \"cpu\"; products "
        "in f16 are for GPUs)");
  if (federation.transport == TransportKind::nccl && on_host)
    problems.add(section.origin_of("transport"),
                 fmt::format("federation.transport: found \"nccl\", expected \"auto\", \"reduce\" or "
                             "\"gather\" (run.backend is "
                             "\"{}\", and NCCL moves data between GPUs)",
                             name_of(config.run.backend)));
}

void check_simulate(const Config& config, Document& document, Problems& problems) {
  if (!config.simulate) return;
  const Simulate& simulate = *config.simulate;
  const Section& section = document.single("simulate");
  if (simulate.shape == ModelShape::of_path && config.model.path.empty() && !section.refused("shape") &&
      !document.single("model").refused("path"))
    problems.add(section.origin,
                 "simulate: no shapes: give model.path (a folder with config.json) or simulate.shape");
  if (simulate.checkpoint && config.run.dir.empty() && !document.single("run").refused("dir"))
    problems.add(section.origin_of("checkpoint"),
                 "simulate.checkpoint: found true, expected a folder as run.dir, too");
  if (simulate.dropouts > 0 && config.federation.on_client_failure != OnClientFailure::drop)
    problems.add(section.origin_of("dropouts"),
                 fmt::format("simulate.dropouts: found {}, expected 0, or federation.on_client_failure = "
                             "\"drop\": with \"abort\" the first of them ends the run",
                             simulate.dropouts));
  for (const std::int64_t clients : simulate.held_out)
    if (std::binary_search(simulate.fit.begin(), simulate.fit.end(), clients))
      problems.add(
          section.origin_of("held_out"),
          fmt::format("simulate.held_out: found {}, expected sizes that are not in simulate.fit", clients));
}

void check_folders(const Config& config, Document& document, Problems& problems) {
  const Section& run = document.single("run");
  const Section& model = document.single("model");
  if (run.find("dir") == nullptr || run.refused("dir") || model.find("path") == nullptr ||
      model.refused("path"))
    return;
  if (config.run.dir == config.model.path)
    problems.add(
        run.origin_of("dir"),
        fmt::format("run.dir: found {}, expected a folder other than model.path's", config.run.dir.string()));
  if (config.run.dir / "model" == config.model.path)
    problems.add(
        run.origin_of("dir"),
        fmt::format("run.dir: found {}, whose model/ is model.path: the result would overwrite the input",
                    config.run.dir.string()));
}

template <class T>
void check_names(const std::vector<T>& entries, const std::vector<Section>& sections, Problems& problems) {
  std::map<std::string, Origin> seen;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (sections[i].find("name") == nullptr || sections[i].refused("name")) continue;
    const Origin& origin = sections[i].origin_of("name");
    const auto [first, is_new] = seen.emplace(entries[i].name, origin);
    if (!is_new)
      problems.add(origin, fmt::format("{}: the name '{}' is already taken at {}", sections[i].name,
                                       entries[i].name, first->second.text));
  }
}

}  // namespace

void complete_and_check(Config& config, Document& document, const Origin& file, Problems& problems) {
  check_prune(config.prune, document.single("prune"), problems);
  check_federation(config, document, problems);
  check_simulate(config, document, problems);
  check_folders(config, document, problems);
  check_names(config.clients, document.list("client"), problems);
  check_names(config.evaluations, document.list("evaluation"), problems);
  if (config.clients.empty() && !config.simulate && !document.mentions("client"))
    problems.add(file, "no [[client]]: expected at least one");
  if (config.report.standalone || config.federation.aggregation == Aggregation::none)
    config.run.keep_clients = true;
}

}  // namespace fedspallm::config
