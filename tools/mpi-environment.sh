# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# To be sourced: fits Open MPI to this machine. Sets `cores` and, where they are needed, Open MPI's variables.
# Usage: source tools/mpi-environment.sh [RANKS]

cores="$(nproc)"
export PMIX_MCA_pcompress_base_silence_warning=1
if [[ $EUID -eq 0 ]]; then
    # Open MPI refuses to start as root unless both are set. Containers often have no other user.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
if ((${1:-1} > cores)); then
    # More ranks than cores: allow it, and let waiting ranks give their core away.
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
fi
