/* The stage: mounts made from the very descriptors that were checked, so that no path is walked twice. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher.h"
#include "mount_numbers.h"

#define TREE_CLOEXEC ((unsigned int)O_CLOEXEC)

struct attributes {
    uint64_t set, clear, propagation, userns_fd;
};

static int set_attributes(int tree, uint64_t set, uint64_t propagation, int userns)
{
    struct attributes attributes = {set, 0, propagation, userns < 0 ? 0 : (uint64_t)userns};
    return (int)syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | TREE_RECURSIVE, &attributes,
                        sizeof(attributes));
}

/* One line for each of the ids; `groups`: those of groups. */
static int write_map(pid_t pid, const char *name, const struct wire_ids *ids, uint32_t count, int groups)
{
    char path[64], map[128] = "";
    int length = 0;
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    for (uint32_t i = 0; i < count; i++)
        length += snprintf(map + length, sizeof(map) - (size_t)length, "%u %u 1\n",
                           groups ? ids[i].inside_gid : ids[i].inside_uid, groups ? ids[i].host_gid : ids[i].host_uid);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, map, (size_t)length);
    int saved = errno;
    close(fd);
    errno = saved;
    return written == length ? 0 : -1;
}

static int open_mapped_namespace(pid_t pid, const struct wire_ids *ids, uint32_t count)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    if (write_map(pid, "uid_map", ids, count, 0) < 0 || write_map(pid, "gid_map", ids, count, 1) < 0)
        return -1;
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* A user namespace exists only through a process: one is born into it, and ends when the maps are written. */
int make_id_maps(const struct wire_ids *ids, uint32_t count)
{
    pid_t launcher = getpid(), pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid < 0)
        return -1;
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != launcher)
            _exit(EXIT_SETUP_FAILED);
        for (;;)
            pause();
    }
    int fd = open_mapped_namespace(pid, ids, count);
    int saved = errno;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    errno = saved;
    return fd;
}

static int same_map(const struct wire_mount *a, const struct wire_mount *b)
{
    return (b->flags & MOUNT_FLAG_IDMAPPED) && a->owner_uid == b->owner_uid && a->owner_gid == b->owner_gid &&
           a->sandbox_uid == b->sandbox_uid && a->sandbox_gid == b->sandbox_gid;
}

/* The namespace for mount `index`: an earlier mount's when the owners are the same. */
static int id_map_for(const struct spec *spec, uint32_t index, int *namespaces)
{
    for (uint32_t earlier = 0; earlier < index; earlier++)
        if (same_map(&spec->mounts[index], &spec->mounts[earlier]))
            return namespaces[index] = namespaces[earlier];
    const struct wire_mount *mount = &spec->mounts[index];
    struct wire_ids ids = {mount->owner_uid, mount->owner_gid, mount->sandbox_uid, mount->sandbox_gid};
    return namespaces[index] = make_id_maps(&ids, 1);
}

/* A mount's ids can be set before anybody sees it: so a copy of it is put on top. */
int map_mount(const char *place, int users)
{
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, place, TREE_CLONE | TREE_CLOEXEC);
    int done = tree < 0 ? -1 : set_attributes(tree, ATTR_IDMAP, MS_PRIVATE, users);
    if (done == 0)
        done = (int)syscall(SYS_move_mount, tree, "", AT_FDCWD, place, MOVE_FROM_EMPTY_PATH);
    int error = errno;
    if (tree >= 0)
        close(tree);
    errno = error;
    return done;
}

static int is_what_was_checked(const struct wire_mount *mount)
{
    struct stat status;
    if (fstat((int)mount->fd, &status) < 0)
        return 0;
    errno = ESTALE;
    return (uint64_t)status.st_dev == mount->device && (uint64_t)status.st_ino == mount->inode &&
           (status.st_mode & S_IFMT) == mount->file_type;
}

/* A detached copy of the mount at the descriptor: private, so that no later mount of the host reaches into it. */
static struct failure clone_tree(const struct spec *spec, uint32_t index, int *trees, int *namespaces)
{
    const struct wire_mount *mount = &spec->mounts[index];
    if (!is_what_was_checked(mount))
        return FAILED(STEP_MOUNT_CHANGED, index);
    trees[index] = (int)syscall(SYS_open_tree, (int)mount->fd, "",
                                TREE_CLONE | TREE_CLOEXEC | TREE_RECURSIVE | (unsigned int)AT_EMPTY_PATH);
    if (trees[index] < 0)
        return FAILED(STEP_MOUNT_OPEN, index);
    uint64_t set = ATTR_NOSUID | ATTR_NODEV | (mount->flags & MOUNT_FLAG_READ_ONLY ? ATTR_READ_ONLY : 0);
    if (set_attributes(trees[index], set, MS_PRIVATE, -1) < 0)
        return FAILED(STEP_MOUNT_ATTRIBUTES, index);
    if (!(mount->flags & MOUNT_FLAG_IDMAPPED))
        return NO_FAILURE;
    if (id_map_for(spec, index, namespaces) < 0 ||
        set_attributes(trees[index], ATTR_IDMAP, 0, namespaces[index]) < 0)
        return FAILED(STEP_MOUNT_ID_MAP, index);
    return NO_FAILURE;
}

static struct failure enter_stage(const struct spec *spec, int *stage)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return FAILED(STEP_STAGE_NAMESPACE, 0);
    char options[64];
    snprintf(options, sizeof(options), "mode=0755,size=8m,nr_inodes=%u",
             spec->count[TAG_MOUNT] + 4 * spec->count[TAG_ENTRY] + 16);
    if (mount("stage", spec->stage, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
        return FAILED(STEP_STAGE_TMPFS, 0);
    *stage = open(spec->stage, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *stage < 0 ? FAILED(STEP_STAGE_TMPFS, 0) : NO_FAILURE;
}

static struct failure place_tree(const struct wire_mount *mount, uint32_t index, int tree, int stage)
{
    char name[16];
    snprintf(name, sizeof(name), "%u", index);
    int made = mount->file_type == S_IFDIR ? mkdirat(stage, name, 0755) : mknodat(stage, name, S_IFREG | 0644, 0);
    if (made < 0)
        return FAILED(STEP_MOUNT_POINT, index);
    if (syscall(SYS_move_mount, tree, "", stage, name, MOVE_FROM_EMPTY_PATH) < 0)
        return FAILED(STEP_MOUNT_MOVE, index);
    return NO_FAILURE;
}

/* Trees are copied before the namespace is left: a descriptor names a mount of the namespace it was opened in,
 * and the kernel copies only mounts of the caller's own. */
struct failure build_stage(struct spec *spec)
{
    uint32_t count = spec->count[TAG_MOUNT];
    int *trees = calloc(count + 1, sizeof(int)), *namespaces = calloc(count + 1, sizeof(int));
    if (!trees || !namespaces)
        return FAILED(STEP_MOUNT_OPEN, 0);
    struct failure failure = NO_FAILURE;
    int stage = -1;
    umask(0);
    for (uint32_t index = 0; !failure.step && index < count; index++)
        failure = clone_tree(spec, index, trees, namespaces);
    if (!failure.step)
        failure = enter_stage(spec, &stage);
    if (!failure.step && spec->count[TAG_ROOT])
        failure = build_root(spec, stage);
    for (uint32_t index = 0; !failure.step && index < count; index++)
        failure = place_tree(&spec->mounts[index], index, trees[index], stage);
    free(trees);
    free(namespaces);
    return failure; /* the descriptors go with all others before the sandbox program starts */
}
