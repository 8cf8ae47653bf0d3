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
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

# HDF5's C library: by pkg-config where it has Debian's name, else as CMake finds it (a site's module, Fedora, Spack;
# HDF5_ROOT names its folder).
add_library(fedspallm_hdf5 INTERFACE IMPORTED GLOBAL)
pkg_check_modules(FEDSPALLM_HDF5_SERIAL QUIET IMPORTED_TARGET GLOBAL hdf5-serial)
if(FEDSPALLM_HDF5_SERIAL_FOUND AND NOT HDF5_ROOT AND NOT DEFINED ENV{HDF5_ROOT})
  target_link_libraries(fedspallm_hdf5 INTERFACE PkgConfig::FEDSPALLM_HDF5_SERIAL)
else()
  find_package(HDF5 REQUIRED COMPONENTS C)
  target_link_libraries(fedspallm_hdf5 INTERFACE ${HDF5_C_LIBRARIES})
  target_include_directories(fedspallm_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
  target_compile_definitions(fedspallm_hdf5 INTERFACE ${HDF5_C_DEFINITIONS})
endif()

# mpi.h pulls in the removed C++ bindings unless told not to.
add_library(fedspallm_mpi INTERFACE IMPORTED GLOBAL)
target_link_libraries(fedspallm_mpi INTERFACE MPI::MPI_C)
target_compile_definitions(fedspallm_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)

# Last, and only where asked for: the CUDA compiler and its libraries.
if(FEDSPALLM_CUDA)
  include(FedspallmCuda)
endif()
