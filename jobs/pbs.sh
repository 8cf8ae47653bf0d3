#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# An example for PBS (OpenPBS, PBS Pro); not tested on one. Submit from the project's folder:
#   qsub -v CONFIG=configs/cluster.toml jobs/pbs.sh
# Some time before its limit the run writes a checkpoint; submit the same again and it goes on. Change the lines marked
# with <--.
#PBS -N fedspallm
#PBS -j oe
##PBS -A NAME                      # <-- your account, if your cluster asks for one: take one # away
#PBS -l select=2:ncpus=32:mpiprocs=2:ompthreads=16 # <-- nodes, cores and ranks of each, cores of each rank
#PBS -l walltime=04:00:00          # <--
set -euo pipefail

limit=$((4 * 3600 - 300)) # <-- seconds of the walltime, less the time that a checkpoint may take
cpus=16                   # <-- cores of each rank (ompthreads above)

# <-- the modules your cluster needs, for example: module load gcc openmpi hdf5 openblas

cd "${PBS_O_WORKDIR:?pbs.sh runs inside a PBS job: submit it with qsub}"
program="${FEDSPALLM:-build/release/fedspallm}"
config="${CONFIG:?usage: qsub -v CONFIG=CONFIG.toml jobs/pbs.sh}"
if [[ ! -x "$program" ]]; then
    printf '%s is missing: submit from the project folder (or load the module fedspallm) after building it\n' \
        "$program" >&2
    exit 2
fi

export OPENBLAS_NUM_THREADS=1
# USR2 makes every rank write a checkpoint and leave with status 75; mpirun passes it on. (A TERM would not do: mpirun
# kills its ranks a second after it.)
mpirun --map-by "slot:PE=$cpus" "$program" prune "$config" --set run.backend=cpu &
step=$!
# shellcheck disable=SC2317 # called by the trap
checkpoint() {
    signalled=true
    kill -USR2 "$step" 2>/dev/null || :
}
trap checkpoint TERM USR1
(sleep "$limit" && kill -USR1 "$$") &
alarm=$!

signalled=true
while $signalled; do # a trapped signal ends `wait` early
    signalled=false
    wait "$step" && status=0 || status=$?
done
kill "$alarm" 2>/dev/null || :

case "$status" in
0) "${FEDSPALLM_ROOT:-.}/jobs/make-report.sh" "$config" || : ;;
75) printf 'checkpoint written: submit the same again, and it goes on\n' ;;
*) printf 'status %d: fedspallm --help explains it\n' "$status" >&2 ;;
esac
exit "$status"
