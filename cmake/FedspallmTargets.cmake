# SPDX-License-Identifier: Apache-2.0
# Helpers that give every target the same warnings, sanitizers and include path.

# FEDSPALLM_UNITY: up to 8 files of a target compile as one, for half the build time where a build is made once
# (tests/run.sh). Targets whose files have equal names in their anonymous namespaces stay as they are.
option(FEDSPALLM_UNITY "Compile several files of a target as one" OFF)
set(FEDSPALLM_NO_UNITY fedspallm_backend fedspallm_config fedspallm_comm fedspallm_store app_tests model_test wire_test aggregate_test
  watchdog_test report_test comm_test nccl_link_test fedspallm_emulated_cuda)

function(fedspallm_options target)
  if(FEDSPALLM_UNITY AND NOT target IN_LIST FEDSPALLM_NO_UNITY AND NOT target MATCHES "_(baseline|avx2|avx512|avx512bf16)$")
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON)
  endif()
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/include)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
    -Wsign-conversion -Wnon-virtual-dtor -Woverloaded-virtual -ffp-contract=off
    # GCC 12 reports these two falsely: std::optional of move-only types; std::string (PR 105651).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
  if(FEDSPALLM_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(FEDSPALLM_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${FEDSPALLM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${FEDSPALLM_SANITIZE})
  endif()
endfunction()

# One module = one folder of src/ = one static library fedspallm_NAME.
# fedspallm_module(NAME [PUBLIC libs...] [PRIVATE libs...])
function(fedspallm_module name)
  cmake_parse_arguments(ARG "" "" "PUBLIC;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "\\.isa\\.cpp$")
  add_library(fedspallm_${name} STATIC ${sources})
  fedspallm_options(fedspallm_${name})
  target_link_libraries(fedspallm_${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
endfunction()

# fedspallm_isa_kernels(NAME [BF16 files...])
# Compiles each FILE.isa.cpp of the current folder once per kernel set (base/cpu_features.hpp) into fedspallm_NAME, the files
# after BF16 also as the set avx512bf16.
# Contraction of a*b+c into one rounding is wanted in kernels and off everywhere else.
function(fedspallm_isa_kernels name)
  cmake_parse_arguments(ARG "" "" "BF16" ${ARGN})
  file(GLOB_RECURSE kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.isa.cpp)
  set(flags_baseline "")
  set(flags_avx2 -mavx2 -mfma -mbmi2 -mf16c)
  set(flags_avx512 -mavx2 -mfma -mbmi2 -mf16c -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512)
  set(flags_avx512bf16 ${flags_avx512} -mavx512bf16)
  set(sets baseline)
  set(level -O3)
  if(FEDSPALLM_SANITIZE)
    set(level -O1) # sanitizers look for faults, not for speed, and -O3 doubles their build time
  endif()
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND sets avx2 avx512)
    if(ARG_BF16)
      list(APPEND sets avx512bf16)
    endif()
  endif()
  foreach(set ${sets})
    if(set STREQUAL "avx512bf16")
      set(kernels ${ARG_BF16})
    endif()
    add_library(fedspallm_${name}_${set} OBJECT ${kernels})
    fedspallm_options(fedspallm_${name}_${set})
    target_compile_definitions(fedspallm_${name}_${set} PRIVATE FEDSPALLM_ISA=${set})
    target_compile_options(fedspallm_${name}_${set} PRIVATE ${level} -ffp-contract=fast -fno-math-errno -fno-trapping-math ${flags_${set}})
    target_link_libraries(fedspallm_${name}_${set} PRIVATE fmt::fmt)
    target_sources(fedspallm_${name} PRIVATE $<TARGET_OBJECTS:fedspallm_${name}_${set}>)
  endforeach()
endfunction()
