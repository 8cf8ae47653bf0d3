// SPDX-License-Identifier: Apache-2.0
// inspect, export, unpack: what needs files only.
#include "fedspallm/store/inspect.hpp"

#include "commands.hpp"
#include <cstdio>

namespace fedspallm::app {

namespace {
void report(const store::ExportResult& result, const std::string& out) {
  std::fprintf(stderr, "%s: %.1f MB, %.3f of the dense model's %.1f MB\n", out.c_str(),
               static_cast<double>(result.written_bytes) / 1e6, result.ratio(),
               static_cast<double>(result.dense_bytes) / 1e6);
}
}  // namespace

ExitStatus run_inspect(const InspectOptions& options) {
  const store::Inspection inspection = store::inspect(options.path);
  std::fputs((options.json ? store::to_json(inspection) + "\n" : store::to_text(inspection)).c_str(), stdout);
  if (options.json)
    for (const std::string& problem : inspection.problems)
      std::fprintf(stderr, "fedspallm: %s\n", problem.c_str());
  return inspection.problems.empty() ? ExitStatus::done : ExitStatus::check_failed;
}

ExitStatus run_export(const ExportOptions& options) {
  store::ExportFormat format = store::ExportFormat::huggingface;
  if (options.format == "bitmask")
    format = store::ExportFormat::bitmask;
  else
    check<ConfigError>(options.format == "huggingface",
                       fmt::format("--format: found '{}', expected huggingface or bitmask", options.format));
  report(store::export_run(options.run_dir, options.out, format, options.client, options.model), options.out);
  return ExitStatus::done;
}

ExitStatus run_unpack(const UnpackOptions& options) {
  report(store::unpack_bitmask(options.file, options.model, options.out), options.out);
  return ExitStatus::done;
}

}  // namespace fedspallm::app
