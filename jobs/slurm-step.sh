#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The part that all Slurm jobs share: runs one step, asks it for a checkpoint when time runs out, and puts
# the job back into the queue. Called by the .sbatch files with `exec`, so it gets the batch script's signals.
# Nothing to change here: FEDSPALLM_LAUNCHER=mpirun, exported by the job script, takes the place of srun where a
# cluster's Slurm has no PMIx.
# Usage: slurm-step.sh [SRUN OPTIONS] -- COMMAND [ARGUMENTS...]
set -euo pipefail

: "${SLURM_JOB_ID:?slurm-step.sh runs inside a Slurm job: submit one of the .sbatch files}"
max_failures=3
failures_file="fedspallm-$SLURM_JOB_ID.failures"
cpus="${SLURM_CPUS_PER_TASK:-1}"
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}" # of an array: this task alone

options=()
while (($#)) && [[ "$1" != -- ]]; do
    options+=("$1")
    shift
done
shift || { printf 'slurm-step: usage: slurm-step.sh [SRUN OPTIONS] -- COMMAND [ARGUMENTS...]\n' >&2 && exit 2; }

# One step with PMIx; a dead rank ends it at once instead of leaving the others waiting.
# srun does not take --cpus-per-task from the job by itself.
case "${FEDSPALLM_LAUNCHER:-srun}" in
srun) launch=(srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="$cpus" "${options[@]}") ;;
mpirun) launch=(mpirun --map-by "slot:PE=$cpus") ;; # ranks and nodes come from the allocation
*) printf 'slurm-step: FEDSPALLM_LAUNCHER is %s; srun or mpirun is expected\n' "$FEDSPALLM_LAUNCHER" >&2 && exit 2 ;;
esac

# Slurm sends TERM (see --signal in the .sbatch files) some time before the limit, and on preemption.
# USR2 tells every rank to write a checkpoint and leave with status 75; srun and mpirun pass it on.
asked=false step=''
# shellcheck disable=SC2317 # called by the trap
checkpoint() {
    signalled=true
    asked=true
    printf 'slurm-step: time is running out, asking for a checkpoint\n'
    [[ -z "$step" ]] || kill -USR2 "$step" 2>/dev/null || :
}
trap checkpoint TERM
"${launch[@]}" "$@" &
step=$!
if $asked; then kill -USR2 "$step" 2>/dev/null || :; fi # asked before there was a step

# A trapped signal ends `wait` early, so wait until the step has really ended.
signalled=true
while $signalled; do
    signalled=false
    wait "$step" && status=0 || status=$?
done

# scancel sends TERM as well, and Slurm has taken the job for ended before that: CANCELLED or, as long as its processes
# run, COMPLETING. So has it one that ran into its time limit (its reason) or is preempted (one restart more than this).
# A job before its limit, in its grace time or sent a signal (scancel --signal) is RUNNING.
cancelled() {
    local shown
    shown=" $(scontrol --oneliner show job "$job" 2>/dev/null || :) "
    case "$shown" in
    *' JobState=CANCELLED '*) ;;
    *' JobState=COMPLETING '*) [[ "$shown" != *' Reason=TimeLimit '* && "$shown" == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]] ;;
    *) false ;;
    esac
}

# Leaves with the step's status if the job cannot or must not go on.
requeue() {
    if cancelled; then
        printf 'slurm-step: status %d, %s: the job was cancelled and stays so; submitted again, it goes on\n' "$status" "$1"
        exit "$status"
    fi
    printf 'slurm-step: status %d, %s: back into the queue\n' "$status" "$1"
    scontrol requeue "$job" ||
        printf 'slurm-step: the job cannot be requeued (see above; sbatch --requeue allows it): submit it again to go on\n' >&2
}

# Puts the job back after a failure, unless there were too many. What cannot be counted would go on for ever.
requeue_failed() {
    local failures
    failures="$(cat "$failures_file" 2>/dev/null || echo 0)"
    if ((failures >= max_failures)); then
        printf 'slurm-step: status %d after %d requeues: giving up\n' "$status" "$failures" >&2
        rm -f "$failures_file" || :
    elif cancelled || { printf '%d\n' "$((failures + 1))" >"$failures_file"; } 2>/dev/null; then
        requeue "failure $((failures + 1)) of at most $max_failures"
    else
        printf 'slurm-step: status %d: not requeued, as %s cannot be written to count failures; submit from a folder %s\n' \
            "$status" "$PWD/$failures_file" "that can be written" >&2
    fi
}

# The signal may come before the launcher or the program listens, and ends them then.
if $asked && ((status > 128)); then
    requeue "ended by the signal; what is on disk is good"
    exit "$status"
fi

case "$status" in
0)
    rm -f "$failures_file" || :
    "$(dirname "${BASH_SOURCE[0]}")/make-report.sh" "$@"
    ;;
75) requeue "checkpoint written" ;;
6 | 134 | 137 | 143) # a rank lost, stuck or killed
    requeue_failed
    ;;
*) printf 'slurm-step: status %d: not requeued (fedspallm --help explains it)\n' "$status" >&2 ;;
esac
exit "$status"
