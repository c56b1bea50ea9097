/* The stage: mounts made from the very descriptors that were checked, so that no path is walked twice. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

static int is_same(int one, int other)
{
    struct stat status, other_status;
    if (fstat(one, &status) < 0 || fstat(other, &other_status) < 0)
        return 0;
    errno = ESTALE;
    return status.st_dev == other_status.st_dev && status.st_ino == other_status.st_ino &&
           (status.st_mode & S_IFMT) == (other_status.st_mode & S_IFMT);
}

/* The same object in the mount namespace of now, found by its name: the kernel copies only mounts of the caller's
 * own, and who is not root may not even copy those of the host's. -1 with ESTALE: something else has the name. */
static int reopen(int fd)
{
    char link[32], path[PATH_MAX];
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof(path));
    errno = ENAMETOOLONG;
    if (length < 0 || (size_t)length == sizeof(path))
        return -1;
    path[length] = '\0';
    int found = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    if (found < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
        errno = ESTALE;
    if (found < 0 || is_same(fd, found))
        return found;
    close(found);
    errno = ESTALE;
    return -1;
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
    int source = spec->count[TAG_USERS] ? reopen((int)mount->fd) : (int)mount->fd;
    if (source < 0)
        return FAILED(errno == ESTALE ? STEP_MOUNT_CHANGED : STEP_MOUNT_OPEN, index);
    trees[index] = (int)syscall(SYS_open_tree, source, "",
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

/* An image that was unpacked: who is not root cannot mount one. */
static struct failure clone_image(const struct spec *spec, int *tree)
{
    int source = reopen((int)spec->root.image);
    *tree = source < 0 ? -1
                       : (int)syscall(SYS_open_tree, source, "", TREE_CLONE | TREE_CLOEXEC | (unsigned int)AT_EMPTY_PATH);
    if (*tree < 0 || set_attributes(*tree, ATTR_NOSUID | ATTR_NODEV | ATTR_READ_ONLY, MS_PRIVATE, -1) < 0)
        return FAILED(STEP_ROOT_IMAGE, 2);
    return NO_FAILURE;
}

static struct failure leave_mounts(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return FAILED(STEP_STAGE_NAMESPACE, 0);
    return NO_FAILURE;
}

/* Who is not root has no place on the host for a stage: so there is one in memory. */
static struct failure make_place(const char *stage)
{
    char path[PATH_MAX];
    if (mount("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=1m") < 0)
        return FAILED(STEP_STAGE_TMPFS, 1);
    for (const char *slash = strchr(stage + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(path, sizeof(path), "%.*s", (int)(slash - stage), stage);
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            return FAILED(STEP_STAGE_TMPFS, 2);
    }
    return mkdir(stage, 0755) < 0 && errno != EEXIST ? FAILED(STEP_STAGE_TMPFS, 2) : NO_FAILURE;
}

static struct failure enter_stage(const struct spec *spec, int *stage)
{
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

/* What was opened by name was opened with the caller's rights; what is made is their root's. */
static struct failure enter_stage_as_user(const struct spec *spec, int *stage)
{
    struct failure failure = become_root_of_users();
    if (!failure.step)
        failure = make_place(spec->stage);
    return failure.step ? failure : enter_stage(spec, stage);
}

static struct failure clone_trees(const struct spec *spec, int *trees, int *namespaces, int *image)
{
    struct failure failure = NO_FAILURE;
    for (uint32_t index = 0; !failure.step && index < spec->count[TAG_MOUNT]; index++)
        failure = clone_tree(spec, index, trees, namespaces);
    if (!failure.step && spec->count[TAG_USERS] && spec->count[TAG_ROOT])
        failure = clone_image(spec, image);
    return failure;
}

/* Root copies trees before the namespace is left: a descriptor names a mount of the namespace it was opened in, and
 * the kernel copies only mounts of the caller's own. A user owns no other namespace than the new one. */
static struct failure open_stage(const struct spec *spec, int *trees, int *image, int *stage)
{
    int *namespaces = calloc(spec->count[TAG_MOUNT] + 1, sizeof(int));
    if (!namespaces)
        return FAILED(STEP_MOUNT_OPEN, 0);
    int users = spec->count[TAG_USERS] > 0;
    struct failure failure = users ? leave_mounts() : NO_FAILURE;
    if (!failure.step)
        failure = clone_trees(spec, trees, namespaces, image);
    if (!failure.step && !users)
        failure = leave_mounts();
    if (!failure.step)
        failure = users ? enter_stage_as_user(spec, stage) : enter_stage(spec, stage);
    free(namespaces);
    return failure;
}

struct failure build_stage(struct spec *spec)
{
    uint32_t count = spec->count[TAG_MOUNT];
    int *trees = calloc(count + 1, sizeof(int)), stage = -1, image = -1;
    if (!trees)
        return FAILED(STEP_MOUNT_OPEN, 0);
    umask(0);
    struct failure failure = open_stage(spec, trees, &image, &stage);
    if (!failure.step && spec->count[TAG_ROOT])
        failure = build_root(spec, stage, image);
    for (uint32_t index = 0; !failure.step && index < count; index++)
        failure = place_tree(&spec->mounts[index], index, trees[index], stage);
    free(trees);
    return failure; /* the descriptors go with all others before the sandbox program starts */
}
