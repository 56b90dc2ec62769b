// Takes the place of pread() in a process that preloads it (LD_PRELOAD), and spoils reads of weights.
//
// READ_FAULTS names a file that holds a `Control`, shared with the test: what is to happen at which call, and what did.
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// Field for field the Control of faulty_process.py.
typedef struct {
  volatile uint64_t fault;         // a Fault
  volatile uint64_t first;         // the first call that is spoiled, from 0
  volatile uint64_t count;         // how many calls in a row are
  volatile uint64_t error_number;  // of ERROR
  volatile uint64_t n_calls;       // reads of weights so far
  volatile uint64_t n_fired;       // spoiled ones among them
} Control;

enum Fault { NONE, ERROR, ONE_BYTE, HALF, END_OF_FILE, FLIPPED_BIT, STALE_BYTES, BLOCKED };

typedef ssize_t (*Read)(int, void*, size_t, off_t);

static Control* control;
static Read original;

__attribute__((constructor)) static void start(void) {
  const char* path = getenv("READ_FAULTS");
  const int descriptor = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
  control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  original = (Read)dlsym(RTLD_NEXT, "pread64");
  if (control == MAP_FAILED || original == NULL) {
    fprintf(stderr, "read_shim: READ_FAULTS must name the control file\n");
    abort();
  }
}

static int ends_with(const char* text, const char* end) {
  const size_t n = strlen(text), n_end = strlen(end);
  return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

static int holds_weights(int descriptor) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t nbytes = readlink(link, path, sizeof path - 1);
  if (nbytes < 0) return 0;
  path[nbytes] = '\0';
  return ends_with(path, ".bin") || ends_with(path, ".safetensors");
}

// Reports fewer bytes than arrived, and leaves none of the others as they ought to be.
static ssize_t shortened(char* destination, ssize_t got, ssize_t limit) {
  if (got <= limit) return got;
  memset(destination + limit, 0xa5, (size_t)(got - limit));
  return limit;
}

static ssize_t spoil(int descriptor, char* destination, size_t nbytes, off_t offset) {
  const struct timespec millisecond = {0, 1000000};
  const uint64_t fault = control->fault;
  if (fault == ERROR) {
    errno = (int)control->error_number;
    return -1;
  }
  while (fault == BLOCKED && control->fault == BLOCKED) nanosleep(&millisecond, NULL);
  if (fault == STALE_BYTES) offset = offset >= (off_t)nbytes ? offset - (off_t)nbytes : offset + (off_t)nbytes;
  const ssize_t got = original(descriptor, destination, nbytes, offset);
  if (got <= 0) return got;
  switch (fault) {
    case ONE_BYTE:
      return shortened(destination, got, 1);
    case HALF:
      return shortened(destination, got, (got + 1) / 2);
    case END_OF_FILE:
      return shortened(destination, got, 0);
    case FLIPPED_BIT:
      destination[got / 2] ^= 0x10;
      return got;
    default:
      return got;
  }
}

static ssize_t read_or_spoil(int descriptor, void* destination, size_t nbytes, off_t offset) {
  if (!holds_weights(descriptor)) return original(descriptor, destination, nbytes, offset);
  const uint64_t call = __atomic_fetch_add(&control->n_calls, 1, __ATOMIC_SEQ_CST);
  if (control->fault == NONE || call < control->first || call - control->first >= control->count)
    return original(descriptor, destination, nbytes, offset);
  __atomic_fetch_add(&control->n_fired, 1, __ATOMIC_SEQ_CST);
  return spoil(descriptor, destination, nbytes, offset);
}

// All names under which the C library's headers may call it.
ssize_t pread(int descriptor, void* destination, size_t nbytes, off_t offset) {
  return read_or_spoil(descriptor, destination, nbytes, offset);
}

ssize_t pread64(int descriptor, void* destination, size_t nbytes, off_t offset) {
  return read_or_spoil(descriptor, destination, nbytes, offset);
}

ssize_t __pread_chk(int descriptor, void* destination, size_t nbytes, off_t offset, size_t room) {
  return nbytes > room ? (abort(), -1) : read_or_spoil(descriptor, destination, nbytes, offset);
}

ssize_t __pread64_chk(int descriptor, void* destination, size_t nbytes, off_t offset, size_t room) {
  return nbytes > room ? (abort(), -1) : read_or_spoil(descriptor, destination, nbytes, offset);
}
