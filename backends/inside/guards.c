/* Masks and read-only binds lie on names. When the host replaces such a name (an editor that saves, a renamed
 * directory), the kernel takes the mount away and what is new is as open as its surroundings. That cannot be kept
 * from happening, so process 1 looks after the names, and ends the sandbox when one is no longer covered. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "launcher.h"

static int look(const char *path, struct guard *seen)
{
    struct stat status;
    struct statvfs filesystem;
    if (lstat(path, &status) < 0 || statvfs(path, &filesystem) < 0)
        return -1;
    seen->device = status.st_dev;
    seen->inode = status.st_ino;
    seen->flags = filesystem.f_flag;
    return 0;
}

/* To be called before the masks are checked: what is replaced earlier fails that check, what is replaced later is
 * seen here. Whatever covers a name is read-only; a name that is closed to us is closed to the workload. */
struct failure set_guards(const struct spec *spec, struct guards *guards)
{
    *guards = (struct guards){.mounts = -1};
    uint32_t wanted = spec->count[TAG_GUARD];
    if (wanted == 0)
        return NO_FAILURE;
    guards->list = calloc(wanted, sizeof(*guards->list));
    if (!guards->list)
        return FAILED(STEP_EVENTS, 3);
    for (uint32_t index = 0; index < wanted; index++) {
        struct guard *guard = &guards->list[guards->count];
        if (look(spec->guards[index], guard) < 0) {
            if (errno == EACCES)
                continue;
            return FAILED(STEP_GUARD_LOST, index);
        }
        errno = ESTALE;
        if (!(guard->flags & ST_RDONLY))
            return FAILED(STEP_GUARD_LOST, index);
        guard->index = index;
        guard->path = strdup(spec->guards[index]);
        if (!guard->path)
            return FAILED(STEP_EVENTS, 3);
        guards->count++;
    }
    return NO_FAILURE;
}

struct failure watch_guards(struct guards *guards)
{
    if (guards->count == 0)
        return NO_FAILURE;
    guards->mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    return guards->mounts < 0 ? FAILED(STEP_EVENTS, 3) : NO_FAILURE;
}

struct failure check_guards(const struct guards *guards)
{
    for (uint32_t place = 0; place < guards->count; place++) {
        const struct guard *guard = &guards->list[place];
        struct guard now;
        if (look(guard->path, &now) == 0 && now.device == guard->device && now.inode == guard->inode &&
            now.flags == guard->flags)
            continue;
        errno = ESTALE;
        return FAILED(STEP_GUARD_LOST, guard->index);
    }
    return NO_FAILURE;
}
