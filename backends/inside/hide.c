/* Objects that names lead to are covered, each of them under all of its names. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "hide.h"
#include "mount_numbers.h"

enum { MOST_TRIES = 10000 };

/* A file with several names, `hidden` of which are known to be out of sight. */
struct linked {
    struct stat status;
    nlink_t hidden;
};

static struct linked *all_linked;
static size_t linked_count;
static const struct hiding *how;
static struct stat cover_status;

static int is_same(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

static struct linked *linked_find(const struct stat *status)
{
    for (size_t i = 0; i < linked_count; i++)
        if (is_same(&all_linked[i].status, status))
            return &all_linked[i];
    return NULL;
}

static int may_have_names(const struct stat *status)
{
    return !S_ISDIR(status->st_mode) && !S_ISLNK(status->st_mode) && status->st_nlink > 1;
}

/* One more of its names is out of sight. */
static int count_name(const struct stat *status)
{
    struct linked *known = linked_find(status);
    if (!known) {
        struct linked *more = realloc(all_linked, (linked_count + 1) * sizeof(*more));
        if (!more)
            return -1;
        all_linked = more;
        known = &more[linked_count++];
        *known = (struct linked){*status, 0};
    }
    known->hidden++;
    return 0;
}

/* A copy of the mount with its flags, before anybody sees it at its place. The flags of the two calls are equal. */
int bind_object(int source, int place, unsigned long flags)
{
    struct {
        uint64_t set, clear, propagation, userns_fd;
    } attributes = {flags, 0, 0, 0};
    int tree = (int)syscall(SYS_open_tree, source, "", AT_EMPTY_PATH | TREE_CLONE | (unsigned int)O_CLOEXEC);
    int done = tree < 0 ? -1 : (int)syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes));
    if (done == 0)
        done = (int)syscall(SYS_move_mount, tree, "", place, "", MOVE_FROM_EMPTY_PATH | MOVE_TO_EMPTY_PATH);
    int error = errno;
    if (tree >= 0)
        close(tree);
    errno = error;
    return done;
}

static int cover_file(int place)
{
    return bind_object(how->cover, place, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC);
}

/* Nothing to see and, but for its owner, nothing to add: a way to what is mounted in it later. */
static int cover_folder(int place)
{
    char path[32], options[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", place);
    snprintf(options, sizeof(options), "mode=0111,uid=%u,gid=%u", how->owner, how->owner);
    return mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options);
}

static int note_hidden(int folder, const char *name, const struct stat *status)
{
    (void)folder;
    (void)name;
    return count_name(status);
}

static int hide_if_known(int folder, const char *name, const struct stat *status)
{
    struct linked *known = linked_find(status);
    if (!known)
        return 0;
    int place = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int done = place < 0 ? -1 : cover_file(place);
    if (place >= 0)
        close(place);
    known->hidden++;
    return done;
}

/* Every file with several names in the folder and below it, on the same file system. Takes `fd` over. */
static int walk(int fd, dev_t device, int (*visit)(int folder, const char *name, const struct stat *status))
{
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    int done = folder ? 0 : -1;
    errno = 0;
    for (struct dirent *entry; done == 0 && (entry = readdir(folder)); errno = 0) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            done = errno == ENOENT ? 0 : -1;
        else if (S_ISDIR(status.st_mode) && status.st_dev == device)
            done = walk(openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), device, visit);
        else if (may_have_names(&status))
            done = visit(fd, entry->d_name, &status);
    }
    if (done == 0 && errno != 0)
        done = -1;
    int error = errno;
    if (folder)
        closedir(folder);
    errno = error;
    return done;
}

/* As programs would find it. -1 with errno 0: nobody finds anything. A `..` on the way is given up (EAGAIN, openat2(2))
 * whenever anything is mounted or renamed meanwhile, wherever that is. */
static int look_up(const char *name)
{
    struct open_how open_how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT};
    int place = -1;
    errno = EAGAIN;
    for (int tries = 0; place < 0 && errno == EAGAIN && tries < MOST_TRIES; tries++)
        place = (int)syscall(SYS_openat2, how->root, name, &open_how, sizeof(open_how));
    if (place < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG))
        errno = 0;
    return place;
}

/* In /proc a name means something else to each process: what we would cover is our own. */
static int hide(int place)
{
    struct stat status;
    struct statfs system;
    if (fstat(place, &status) < 0 || fstatfs(place, &system) < 0)
        return -1;
    errno = EOPNOTSUPP;
    if (system.f_type == PROC_SUPER_MAGIC)
        return -1;
    if (is_same(&status, &cover_status))
        return 0;
    if (!S_ISDIR(status.st_mode))
        return may_have_names(&status) && count_name(&status) < 0 ? -1 : cover_file(place);
    if (walk(openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), status.st_dev, note_hidden) < 0)
        return -1;
    return cover_folder(place);
}

static int is_anything_left(void)
{
    for (size_t i = 0; i < linked_count; i++)
        if (all_linked[i].hidden < all_linked[i].status.st_nlink)
            return 1;
    return 0;
}

/* Names of hidden files where nobody has asked for it. One that cannot be found must not be left to see. */
static int hide_other_names(void)
{
    struct stat top;
    if (!is_anything_left())
        return 0;
    int root = openat(how->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || fstat(root, &top) < 0 || walk(root, top.st_dev, hide_if_known) < 0)
        return -1;
    errno = EMLINK;
    return is_anything_left() ? -1 : 0;
}

static int hide_name(const char *name)
{
    errno = EINVAL;
    int place = *name == '/' ? look_up(name) : -1;
    if (place < 0)
        return errno == 0 ? 0 : -1;
    int done = hide(place);
    int error = errno;
    close(place);
    errno = error;
    return done;
}

int hide_names(const struct hiding *hiding, char *const *names, uint32_t count, uint32_t *failed)
{
    how = hiding;
    if (fstat(hiding->cover, &cover_status) < 0)
        return -1;
    for (*failed = 0; *failed < count; ++*failed)
        if (hide_name(names[*failed]) < 0)
            return -1;
    return hide_other_names();
}
