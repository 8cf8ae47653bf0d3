/* SPDX-License-Identifier: Apache-2.0
 * Preloaded by tests/slurm: a disk that takes SLOW_DISK_MS for each fsync, so that a tiny run lasts long enough to be
 * interrupted and takes no CPU meanwhile. In a requeued job it is fast again. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int file) {
  const char* milliseconds = getenv("SLOW_DISK_MS");
  if (milliseconds != NULL && getenv("SLURM_RESTART_COUNT") == NULL)
    usleep((useconds_t)atoi(milliseconds) * 1000);
  return (int)syscall(SYS_fsync, file);
}
