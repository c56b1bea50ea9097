#define _GNU_SOURCE
#include "agent_below.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_PATH = 4096 };

/* Told instead of what the system makes of a link where a folder was expected. */
static int is_link(int folder, const char *name)
{
    struct stat status;
    int error = errno;
    int link = fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode);
    errno = link ? ELOOP : error;
    return link;
}

static int open_last(int folder, const char *name, int flags)
{
    struct stat status;
    int fd = openat(folder, name, flags | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        is_link(folder, name);
        return -1;
    }
    if ((flags & (O_PATH | O_NOFOLLOW)) == O_PATH && (fstat(fd, &status) < 0 || S_ISLNK(status.st_mode))) {
        close(fd);
        errno = ELOOP;
        return -1;
    }
    return fd;
}

static int walk_below(int folder, const char *path, int flags)
{
    char name[NAME_MAX + 1];
    int here = openat(folder, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    while (here >= 0) {
        size_t length = strcspn(path, "/");
        const char *next = path + length + strspn(path + length, "/");
        int is_last = *next == '\0', fd = -1;
        if (length >= sizeof(name)) {
            errno = ENAMETOOLONG;
        } else {
            memcpy(name, path, length);
            name[length] = '\0';
            errno = EXDEV;
            if (strcmp(name, "..") != 0)
                fd = open_last(here, length ? name : ".", is_last ? flags : O_PATH | O_DIRECTORY);
        }
        int error = errno;
        close(here);
        errno = error;
        if (is_last || fd < 0)
            return fd;
        here = fd;
        path = next;
    }
    return -1;
}

int open_below(int folder, const char *path, int flags)
{
    struct open_how how = {.flags = (__u64)(flags | O_CLOEXEC), .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, folder, *path ? path : ".", &how, sizeof(how));
    return fd < 0 && errno == ENOSYS ? walk_below(folder, path, flags) : fd;
}

/* The beginning of the kernel's struct statx, which not every libc has. */
struct mount_told {
    uint32_t mask, before[35];
    uint64_t mount, after[13];
};
enum { TELL_MOUNT = 0x1000 };

static int mount_of(int fd, uint64_t *mount)
{
    struct mount_told told;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, TELL_MOUNT, &told) < 0 || !(told.mask & TELL_MOUNT))
        return -1;
    *mount = told.mount;
    return 0;
}

static int on_same_mount(int one, int other)
{
    uint64_t first, second;
    return mount_of(one, &first) == 0 && mount_of(other, &second) == 0 && first == second;
}

int is_mounted(int folder, const char *name)
{
    int error = errno, fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int mounted = fd >= 0 && !on_same_mount(folder, fd);
    if (fd >= 0)
        close(fd);
    errno = error;
    return mounted;
}

int open_same_mount(int folder, const char *name)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    int fd = (int)syscall(SYS_openat2, folder, name, &how, sizeof(how));
    if (fd >= 0 || errno != ENOSYS)
        return fd;
    int place = open_last(folder, name, O_PATH | O_DIRECTORY);
    if (place < 0)
        return -1;
    errno = EXDEV;
    if (on_same_mount(folder, place))
        fd = openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = errno;
    close(place);
    errno = error;
    return fd;
}

/* One step down into a folder that is made when it is missing. */
static int step_down(int folder, const char *name, const struct owner *owner)
{
    int next = open_below(folder, name, O_PATH | O_DIRECTORY);
    if (next >= 0 || errno != ENOENT)
        return next;
    if (mkdirat(folder, name, 0755) < 0 && errno != EEXIST)
        return -1;
    next = open_below(folder, name, O_PATH | O_DIRECTORY);
    if (next >= 0 && owner && fchownat(next, "", owner->uid, owner->gid, AT_EMPTY_PATH) < 0) {
        close(next);
        return -1;
    }
    return next;
}

int make_below(int folder, const char *path, const struct owner *owner)
{
    char name[NAME_MAX + 1];
    int here = open_below(folder, path, O_PATH | O_DIRECTORY);
    if (here >= 0 || errno != ENOENT)
        return here;
    here = open_below(folder, "", O_PATH | O_DIRECTORY);
    while (here >= 0 && *path) {
        size_t length = strcspn(path, "/");
        int next = -1;
        errno = ENAMETOOLONG;
        if (length < sizeof(name)) {
            memcpy(name, path, length);
            name[length] = '\0';
            next = step_down(here, name, owner);
        }
        int error = errno;
        close(here);
        errno = error;
        here = next;
        path += length + (path[length] == '/');
    }
    return here;
}

int make_parent(int folder, const char *path, const struct owner *owner, const char **name)
{
    char above[MAX_PATH] = "";
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    if (slash)
        snprintf(above, sizeof(above), "%.*s", (int)(slash - path), path);
    return make_below(folder, above, owner);
}

static int private = -1;

void keep_private_in(int folder)
{
    private = folder;
}

/* "/", or where `rest` really begins, which it is shortened to. */
static int open_base(char *rest)
{
    static const char name[] = "run/mxc";
    const size_t length = sizeof(name) - 1;
    if (private < 0 || strncmp(rest, name, length) != 0 || (rest[length] != '/' && rest[length] != '\0'))
        return open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    const char *inside = rest + length + (rest[length] == '/');
    memmove(rest, inside, strlen(inside) + 1);
    return fcntl(private, F_DUPFD_CLOEXEC, 0);
}

int open_root(const char *absolute, char *rest, size_t room)
{
    size_t used = 0;
    if (*absolute != '/' || strlen(absolute) >= room) {
        errno = *absolute == '/' ? ENAMETOOLONG : EINVAL;
        return -1;
    }
    for (const char *part = absolute; *part;) {
        size_t length = strcspn(part, "/");
        if (length == 2 && part[0] == '.' && part[1] == '.') {
            errno = EINVAL;
            return -1;
        }
        if (length > 0) {
            if (used > 0)
                rest[used++] = '/';
            memcpy(rest + used, part, length);
            used += length;
        }
        part += length + (part[length] == '/');
    }
    rest[used] = '\0';
    return open_base(rest);
}
