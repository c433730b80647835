/* Counts the calls that SQLite makes on one file and does something at the n-th.
 *
 * FAULT_FILE    how the path of the file ends, such as ".db-wal"
 * FAULT_CALL    "sync" (fsync, fdatasync) or "write" (pwrite)
 * FAULT_AT      which call, from 1 on; every later one as well
 * FAULT_DO      "kill": the process ends there; "tear": half of the write, then it ends; "EIO", "EROFS": it fails;
 *               "slow": a sync takes a second longer, and the file FAULT_ARMED.now is made when it begins
 * FAULT_ARMED   a path; nothing is counted before a file is there
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int calls;

static int is_the_file(int fd) {
    char name[64], path[4096];
    const char *end = getenv("FAULT_FILE");
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size < 0 || end == NULL || (size_t)size < strlen(end))
        return 0;
    path[size] = 0;
    return strcmp(path + size - strlen(end), end) == 0;
}

static int due(int fd, const char *call) {
    const char *wanted = getenv("FAULT_CALL"), *armed = getenv("FAULT_ARMED"), *at = getenv("FAULT_AT");
    if (!wanted || !armed || !at || strcmp(wanted, call) || !is_the_file(fd) || access(armed, F_OK))
        return 0;
    return __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) >= atoi(at);
}

static int fail(void) {
    const char *what = getenv("FAULT_DO");
    if (!strcmp(what, "EIO"))
        errno = EIO;
    else if (!strcmp(what, "EROFS"))
        errno = EROFS;
    else
        _exit(9);
    return -1;
}

static int sync_of(int fd, int (*real)(int)) {
    if (!due(fd, "sync"))
        return real(fd);
    if (strcmp(getenv("FAULT_DO"), "slow"))
        return fail();
    char path[4096];
    snprintf(path, sizeof path, "%s.now", getenv("FAULT_ARMED"));
    close(open(path, O_WRONLY | O_CREAT, 0600));
    usleep(1000000);
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    return sync_of(fd, real);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fdatasync");
    return sync_of(fd, real);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "pwrite64");
    if (!due(fd, "write"))
        return real(fd, data, size, at);
    if (!strcmp(getenv("FAULT_DO"), "tear"))
        real(fd, data, size / 2, at);
    return fail();
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
