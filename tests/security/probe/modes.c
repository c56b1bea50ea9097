/* Every way to give a file the set-user-ID bit, on a file of one's own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#define MODE (S_ISUID | 0755)

static long by_open(const char *path)
{
    return answer(syscall(SYS_open, path, O_CREAT | O_EXCL | O_WRONLY, MODE));
}

static long by_openat2(const char *path)
{
    struct open_how how = {.flags = O_CREAT | O_EXCL | O_WRONLY, .mode = MODE};
    return answer(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how)));
}

static long by_temporary(const char *path)
{
    char folder[256];
    strncpy(folder, path, sizeof(folder) - 1);
    folder[sizeof(folder) - 1] = '\0';
    *strrchr(folder, '/') = '\0';
    int fd = open(folder, O_TMPFILE | O_WRONLY, MODE);
    return fd < 0 ? answer(fd) : answer(linkat(fd, "", AT_FDCWD, path, AT_EMPTY_PATH));
}

static long on_existing(const char *path, const char *way)
{
    int fd = open(path, O_CREAT | O_RDWR, 0755);
    if (fd < 0)
        return answer(fd);
    if (strcmp(way, "fchmod") == 0)
        return answer(syscall(SYS_fchmod, fd, MODE));
    if (strcmp(way, "fchmodat") == 0)
        return answer(syscall(SYS_fchmodat, AT_FDCWD, path, MODE));
    if (strcmp(way, "fchmodat2") == 0)
        return answer(syscall(SYS_fchmodat2, AT_FDCWD, path, MODE, 0));
    return answer(syscall(SYS_chmod, path, MODE));
}

/* `setuid-file=PATH,WAY` */
static long make_setuid(char **w)
{
    umask(0);
    const char *way = w[1];
    if (strcmp(way, "open") == 0)
        return by_open(w[0]);
    if (strcmp(way, "openat") == 0)
        return answer(syscall(SYS_openat, AT_FDCWD, w[0], O_CREAT | O_EXCL | O_WRONLY, MODE));
    if (strcmp(way, "openat2") == 0)
        return by_openat2(w[0]);
    if (strcmp(way, "creat") == 0)
        return answer(syscall(SYS_creat, w[0], MODE));
    if (strcmp(way, "mknod") == 0)
        return answer(syscall(SYS_mknod, w[0], S_IFREG | MODE, 0));
    if (strcmp(way, "mknodat") == 0)
        return answer(syscall(SYS_mknodat, AT_FDCWD, w[0], S_IFREG | MODE, 0));
    if (strcmp(way, "tmpfile") == 0)
        return by_temporary(w[0]);
    return on_existing(w[0], way);
}

const struct attempt mode_attempts[] = {{"setuid-file", make_setuid}, {NULL, NULL}};
