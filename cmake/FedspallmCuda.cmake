# SPDX-License-Identifier: Apache-2.0
# CUDA for the preset `cuda`: finds the compiler and the toolkit's libraries and compiles kernels. Included only
# when FEDSPALLM_CUDA is on, so that other builds know nothing of it.
#
# FEDSPALLM_CUDA_ARCHITECTURES: the release list runs on compute capability 7.5 and later (other GPUs compile
# the 7.5 PTX when the program first starts). One architecture, e.g. 90 or native, compiles several times faster.
set(FEDSPALLM_CUDA_ARCHITECTURES "75-virtual;80;90;100;120" CACHE STRING "CUDA architectures, as CMake writes them")
set(CMAKE_CUDA_ARCHITECTURES ${FEDSPALLM_CUDA_ARCHITECTURES})

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(FEDSPALLM_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda PATH_SUFFIXES bin)
  if(NOT FEDSPALLM_NVCC)
    message(FATAL_ERROR "FEDSPALLM_CUDA=ON (preset `cuda`) needs NVIDIA's compiler nvcc, version 13 or later. It is "
      "neither on the PATH nor under /usr/local/cuda. Install the CUDA toolkit or name the compiler: "
      "-DCMAKE_CUDA_COMPILER=/where/it/is/bin/nvcc. Builds without CUDA: the preset `release`.")
  endif()
  set(CMAKE_CUDA_COMPILER ${FEDSPALLM_NVCC})
endif()
if(CMAKE_CXX_COMPILER_LAUNCHER AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON) # the toolkit's libraries are rarely on the loader's own path
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know that nvcc has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit 13 REQUIRED)

# fedspallm_cuda_kernels(TARGET)   compiles the current folder's cuda/*.cu into TARGET and links the libraries
function(fedspallm_cuda_kernels target)
  file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu)
  add_library(${target}_cuda OBJECT ${kernels})
  target_include_directories(${target}_cuda PRIVATE ${PROJECT_SOURCE_DIR}/include)
  # Not -Wpedantic, -Wconversion: nvcc's own host code breaks them. Contraction is wanted in kernels.
  target_compile_options(${target}_cuda PRIVATE -Xcompiler=-Wall,-Wextra,-Wshadow $<$<CONFIG:Debug>:-lineinfo>)
  if(FEDSPALLM_WERROR)
    target_compile_options(${target}_cuda PRIVATE -Werror=all-warnings)
  endif()
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_cuda>)
  target_link_libraries(${target} PRIVATE CUDA::cudart CUDA::cublas CUDA::cusolver CUDA::cusparse)
endfunction()
