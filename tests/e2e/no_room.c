/* SPDX-License-Identifier: Apache-2.0
 * Preloaded by test_robustness.py: no room for new files whose path contains $NO_ROOM_FOR. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_if_room(const char* path, int flags, mode_t mode) {
  const char* what = getenv("NO_ROOM_FOR");
  if ((flags & O_CREAT) != 0 && what != NULL && strstr(path, what) != NULL) {
    errno = ENOSPC;
    return -1;
  }
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static mode_t mode_of(int flags, va_list rest) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
}

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return open_if_room(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return open_if_room(path, flags | O_LARGEFILE, mode);
}
