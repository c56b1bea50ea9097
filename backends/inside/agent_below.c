#define _GNU_SOURCE
#include "agent_below.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_PATH = 4096 };

int open_below(int folder, const char *path, int flags)
{
    struct open_how how = {.flags = (__u64)(flags | O_CLOEXEC), .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    return (int)syscall(SYS_openat2, folder, *path ? path : ".", &how, sizeof(how));
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
    return open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
}
