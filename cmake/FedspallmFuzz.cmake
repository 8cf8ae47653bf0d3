# SPDX-License-Identifier: Apache-2.0
# What the preset `fuzz` needs beside the sanitizers: clang 16 (14, Debian 12's default, has no std::source_location
# and no _Float16). The targets themselves: tests/fuzz, docs/fuzzing.md.
if(NOT FEDSPALLM_FUZZ)
  return()
endif()
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "FEDSPALLM_FUZZ needs clang with libFuzzer: use `cmake --preset fuzz` "
    "(packages: tools/install-dependencies.sh --fuzz)")
endif()
# GCC's warnings are what the other presets check; here clang would complain about their names.
add_compile_options(-Wno-unknown-warning-option)
add_compile_options(-fsanitize-coverage-ignorelist=${PROJECT_SOURCE_DIR}/tests/fuzz/coverage_ignored.txt)
add_custom_target(fuzz)
