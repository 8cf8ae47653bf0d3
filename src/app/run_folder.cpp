// SPDX-License-Identifier: Apache-2.0
#include "run_folder.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/paths.hpp"

#include <algorithm>
#include <array>

namespace fedspallm::app {

bool holds_run(const std::filesystem::path& run_dir) {
  constexpr std::array kMarks = {"resume.json", "run.h5", "manifest.json", "status.json"};
  return std::any_of(kMarks.begin(), kMarks.end(), [&](const char* name) {
    std::error_code error;
    return std::filesystem::exists(run_dir / name, error);
  });
}

namespace {

/// The folders of a run directory whose content is a run's own: made, replaced and removed by it.
constexpr std::array kOwnFolders = {"model", "state", "clients", "blocks"};

}  // namespace

void check_run_folder(const config::Config& config) {
  const std::filesystem::path& dir = config.run.dir;
  for (const char* name : kOwnFolders)
    check<ConfigError>(
        !is_inside(config.model.path, dir / name).value_or(false),
        fmt::format("run.dir: found {}, whose {}/ holds model.path {}: the run would replace it; "
                    "expected another folder",
                    dir.string(), name, config.model.path.string()));
  if (holds_run(dir)) return;  // then config.toml, too, is what a run made of the original
  std::error_code error;
  check<ConfigError>(
      !std::filesystem::equivalent(dir / "config.toml", config.file, error),
      fmt::format("run.dir: found {}, the folder of {}, which the run would replace by its own "
                  "config.toml; expected another folder, e.g. {}",
                  dir.string(), config.file.string(), (dir / "run").string()));
  for (const char* name : kOwnFolders)
    check<ConfigError>(
        !std::filesystem::exists(dir / name, error),
        fmt::format("run.dir: found {}, which holds {}/ but no run (no resume.json, run.h5, manifest.json or "
                    "status.json), and a run would replace that; expected a new folder or that of a run",
                    dir.string(), name));
}

}  // namespace fedspallm::app
