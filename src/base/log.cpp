// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/log.hpp"

#include "fedspallm/base/error.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

namespace fedspallm {

struct Logger::Impl {
  std::shared_ptr<spdlog::logger> logger;
};

namespace {
spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}
}  // namespace

Logger::Logger(int rank, const std::string& file, LogLevel console_level) : impl_(std::make_unique<Impl>()) {
  std::vector<spdlog::sink_ptr> sinks;
  if (rank == 0) {
    auto console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    console->set_level(level_of(console_level));
    console->set_pattern("%^%L%$ %H:%M:%S %v");
    sinks.push_back(std::move(console));
  }
  if (!file.empty()) {
    try {
      auto log_file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file, /*truncate=*/false);
      log_file->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
      sinks.push_back(std::move(log_file));
    } catch (const spdlog::spdlog_ex& error) {
      throw ResourceError(fmt::format("{}: cannot open the log file: {}", file, error.what()));
    }
  }
  impl_->logger = std::make_shared<spdlog::logger>("fedspallm", sinks.begin(), sinks.end());
  impl_->logger->set_level(spdlog::level::debug);
  impl_->logger->flush_on(spdlog::level::info);
}

Logger::~Logger() = default;

void Logger::write(LogLevel level, std::string_view message) {
  impl_->logger->log(level_of(level), message);
}

}  // namespace fedspallm
