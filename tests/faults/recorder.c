/* Writes down, in order, what a process does to one file and those beside it that begin with its name.
 *
 * RECORD_FILE   the path of the file, as /proc shows it
 * RECORD_TO     where the records go; others may append records of their own
 *
 * A record: kind ('w' write, 't' truncate, 's' sync, 'u' unlink, 'r' rename, its data
 * the new name, 'd' sync of the folder), length of the name behind RECORD_FILE, two bytes of
 * nothing, length of the data (4 bytes), offset or size (8 bytes); then the name and the data. It is written when the call
 * has succeeded, so all before a sync in the records was before it in fact. A file in shared memory ("-shm") is left out.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int records = -1;

/* What stands behind RECORD_FILE in the path, or NULL for other files. */
static const char *part_of(const char *path) {
    const char *file = getenv("RECORD_FILE");
    if (!file || strncmp(path, file, strlen(file)))
        return NULL;
    path += strlen(file);
    return strcmp(path, "-shm") && strcmp(path, ".lock") ? path : NULL;
}

static const char *part_of_fd(int fd, char *path, size_t room) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, room - 1);
    path[size < 0 ? 0 : size] = 0;
    return part_of(path);
}

static void record(char kind, const char *part, uint64_t at, const void *data, uint32_t size) {
    struct {
        char kind;
        uint8_t name;
        uint16_t nothing;
        uint32_t size;
        uint64_t at;
    } head = {kind, (uint8_t)strlen(part), 0, size, at};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)part, head.name}, {(void *)data, size}};
    pthread_mutex_lock(&lock);
    if (records < 0)
        records = open(getenv("RECORD_TO"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (writev(records, parts, 3) != (ssize_t)(sizeof head + head.name + size))
        abort(); /* half a record would be worse than none */
    pthread_mutex_unlock(&lock);
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real)                                                                                                         \
        real = dlsym(RTLD_NEXT, name);

static void record_fd(char kind, int fd, uint64_t at, const void *data, uint32_t size) {
    char path[4096];
    const char *part = part_of_fd(fd, path, sizeof path);
    if (part)
        record(kind, part, at, data, size);
}

/* A sync of the file, or of the folder that it is in. */
static void record_sync(int fd) {
    char path[4096];
    const char *file = getenv("RECORD_FILE"), *part = part_of_fd(fd, path, sizeof path);
    if (part)
        record('s', part, 0, NULL, 0);
    else if (file && strlen(path) == (size_t)(strrchr(file, '/') - file) && !strncmp(path, file, strlen(path)))
        record('d', "", 0, NULL, 0);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)
    ssize_t done = real(fd, data, size, at);
    if (done > 0)
        record_fd('w', fd, (uint64_t)at, data, (uint32_t)done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t)
    int failed = real(fd, size);
    if (!failed)
        record_fd('t', fd, (uint64_t)size, NULL, 0);
    return failed;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) {
    REAL(int, "fsync", int)
    int failed = real(fd);
    if (!failed)
        record_sync(fd);
    return failed;
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int)
    int failed = real(fd);
    if (!failed)
        record_sync(fd);
    return failed;
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *)
    const char *part = part_of(path);
    int failed = real(path);
    if (!failed && part)
        record('u', part, 0, NULL, 0);
    return failed;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *)
    const char *part = part_of(from), *becomes = part_of(to);
    int failed = real(from, to);
    if (!failed && part && becomes)
        record('r', part, 0, becomes, (uint32_t)strlen(becomes));
    return failed;
}
