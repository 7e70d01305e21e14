/* Lets the k-th call of one kind fail, of files below one folder: LD_PRELOAD=failing_calls.so.

   arm(kind, k, error, folder): kind 'w' write, 's' fsync, 'r' rename, 'o' open for writing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int armed_kind, armed_error;
static long left_over = -1;
static char below[4096];

void arm(int kind, long k, int error, const char *folder) {
  armed_kind = kind, armed_error = error, left_over = k;
  snprintf(below, sizeof below, "%s", folder);
}

long calls_left(void) { return left_over; }

static int fails(int kind, const char *path) {
  if (left_over < 0 || kind != armed_kind || strncmp(path, below, strlen(below))) return 0;
  if (left_over-- > 0) return 0;
  errno = armed_error;
  return 1;
}

static int fails_at(int kind, int file) {
  char link[64], path[4096];
  if (left_over < 0 || kind != armed_kind) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return fails(kind, path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *data, size_t size) {
  REAL(write);
  return fails_at('w', file) ? -1 : real(file, data, size);
}

int fsync(int file) {
  REAL(fsync);
  return fails_at('s', file) ? -1 : real(file);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return fails('r', to) ? -1 : real(from, to);
}

#define OPEN(name)                                              \
  int name(const char *path, int flags, ...) {                  \
    REAL(name);                                                 \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
    va_end(rest);                                               \
    if (flags & (O_WRONLY | O_RDWR) && fails('o', path)) return -1; \
    return real(path, flags, mode);                             \
  }
OPEN(open)
OPEN(open64)
