# SPDX-License-Identifier: Apache-2.0
# Finds every outside library in one place. All come from Debian packages (tools/install-dependencies.sh).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(MPI 3.1 REQUIRED COMPONENTS C)
pkg_check_modules(HDF5 REQUIRED IMPORTED_TARGET hdf5-serial)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

# OpenBLAS by its own library (not the alternatives' libblas, which may be the slow reference one).
find_library(OPENBLAS_LIBRARY NAMES openblas PATH_SUFFIXES openblas-openmp REQUIRED)
find_path(OPENBLAS_INCLUDE_DIR NAMES cblas.h
          PATH_SUFFIXES openblas-openmp x86_64-linux-gnu/openblas-openmp x86_64-linux-gnu openblas REQUIRED)
add_library(fedspallm_openblas INTERFACE IMPORTED GLOBAL)
target_link_libraries(fedspallm_openblas INTERFACE ${OPENBLAS_LIBRARY})
target_include_directories(fedspallm_openblas SYSTEM INTERFACE ${OPENBLAS_INCLUDE_DIR})

# mpi.h pulls in the removed C++ bindings unless told not to.
add_library(fedspallm_mpi INTERFACE IMPORTED GLOBAL)
target_link_libraries(fedspallm_mpi INTERFACE MPI::MPI_C)
target_compile_definitions(fedspallm_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)

# Last, and only where asked for: the CUDA compiler and its libraries.
if(FEDSPALLM_CUDA)
  include(FedspallmCuda)
endif()
