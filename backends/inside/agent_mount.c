/* A MOUNT: something at a place that no symbolic link leads to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "agent_below.h"
#include "hide.h"

enum { MAX_PATH = 4096 };

unsigned long mount_flags_of(uint32_t wanted)
{
    static const struct {
        uint32_t ours;
        unsigned long kernels;
    } flags[] = {{AGENT_MOUNT_READ_ONLY, MS_RDONLY},
                 {AGENT_MOUNT_NO_SUID, MS_NOSUID},
                 {AGENT_MOUNT_NO_DEV, MS_NODEV},
                 {AGENT_MOUNT_NO_EXEC, MS_NOEXEC}};
    unsigned long all = 0;
    for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
        if (wanted & flags[i].ours)
            all |= flags[i].kernels;
    return all;
}

/* The place itself: a folder, or an empty file for a file to be bound on. */
static int open_place(const char *target, int is_file)
{
    static char path[MAX_PATH];
    const char *name;
    int base = open_root(target, path, sizeof(path));
    if (base < 0 || !is_file)
        return base < 0 ? -1 : make_below(base, path, NULL);
    int place = open_below(base, path, O_PATH);
    if (place >= 0 || errno != ENOENT)
        return place;
    int parent = make_parent(base, path, NULL, &name);
    int made = parent < 0 ? -1 : openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (made < 0 && (parent < 0 || errno != EEXIST))
        return -1;
    return open_below(base, path, O_PATH);
}

/* What a clone's disk holds is not what its template has read of it. */
void forget_disk(const char *device)
{
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* mount(2) says it better */
    ioctl(fd, BLKFLSBUF, 0);
    close(fd);
}

int is_of_disks(const char *type)
{
    return strcmp(type, "erofs") == 0 || strcmp(type, "squashfs") == 0 || strcmp(type, "ext4") == 0;
}

static struct outcome mount_new(const struct request *request, int target)
{
    char place[32], options[64] = "";
    const char *type = request->file_system ? request->file_system : "";
    if (strcmp(type, "tmpfs") == 0) {
        int shared = strcmp(request->path, "/tmp") == 0 || strcmp(request->path, "/var/tmp") == 0 ||
                     strcmp(request->path, "/dev/shm") == 0;
        int length = snprintf(options, sizeof(options), "mode=%s", shared ? "1777" : "0755");
        if (request->count[AGENT_TAG_SIZE])
            snprintf(options + length, sizeof(options) - (size_t)length, ",size=%llu", (unsigned long long)request->size);
    } else if (!is_of_disks(type)) {
        errno = ENODEV;
        return failed(AGENT_STEP_MOUNT, type);
    }
    const char *source = request->source ? device_path(request->source) : type;
    if (request->source)
        forget_disk(source);
    snprintf(place, sizeof(place), "/proc/self/fd/%d", target); /* which mount(2) follows to the very object */
    if (mount(source, place, type, mount_flags_of(request->mount_flags), options) < 0)
        return failed(AGENT_STEP_MOUNT, request->source ? request->source : type);
    return SUCCESS;
}

struct outcome mount_it(const struct request *request)
{
    static char path[MAX_PATH];
    struct stat status = {0};
    int source = -1;
    if (request->mount_flags & AGENT_MOUNT_BIND) {
        int base = open_root(request->source ? request->source : "", path, sizeof(path));
        source = base < 0 ? -1 : open_below(base, path, O_PATH);
        if (source < 0 || fstat(source, &status) < 0)
            return failed(AGENT_STEP_OPEN, request->source ? request->source : "");
    }
    int target = open_place(request->path, source >= 0 && !S_ISDIR(status.st_mode));
    if (target < 0)
        return failed(AGENT_STEP_MOUNT_POINT, request->path);
    if (source < 0)
        return mount_new(request, target);
    return bind_object(source, target, mount_flags_of(request->mount_flags)) < 0 ? failed(AGENT_STEP_MOUNT, request->path)
                                                                           : SUCCESS;
}
