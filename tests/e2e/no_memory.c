/* SPDX-License-Identifier: Apache-2.0
 * Preloaded by test_simulate.py: rank 1 of a job gets no piece of memory of NO_MEMORY_BYTES or more. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern void* __libc_malloc(size_t bytes);

void* malloc(size_t bytes) {
  const char* rank = getenv("OMPI_COMM_WORLD_RANK");
  const char* limit = getenv("NO_MEMORY_BYTES");
  if (rank != NULL && limit != NULL && strcmp(rank, "1") == 0 && bytes >= strtoull(limit, NULL, 10)) {
    errno = ENOMEM;
    return NULL;
  }
  return __libc_malloc(bytes);
}
