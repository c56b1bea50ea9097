/* The root of a container: an image below, memory above it, in the stage. What is hidden in it is hidden before
 * anything is made in it, and what is made belongs to the container's root. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hide.h"
#include "launcher.h"
#include "mount_numbers.h"

enum { MAX_PATH = 4096, LOOP_TRIES = 16 };

static void in_stage(const struct spec *spec, const char *name, char *path, size_t room)
{
    snprintf(path, room, "%s/%s", spec->stage, name);
}

/* A device that goes with its last mount. */
static int open_loop(int image, char *path, size_t room)
{
    struct loop_config config = {.fd = (__u32)image, .info = {.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR}};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), device = -1;
    for (int attempt = 0; control >= 0 && device < 0 && attempt < LOOP_TRIES; attempt++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(path, room, "/dev/loop%d", number);
        device = number < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) < 0) { /* somebody else was faster */
            close(device);
            device = -1;
        }
    }
    if (control >= 0)
        close(control);
    return device;
}

/* Newer kernels mount the file itself. */
static int mount_image(int image, const char *place)
{
    char source[64];
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV;
    snprintf(source, sizeof(source), "/proc/self/fd/%d", image);
    if (mount(source, place, "erofs", flags, NULL) == 0)
        return 0;
    int device = open_loop(image, source, sizeof(source));
    int done = device < 0 ? -1 : mount(source, place, "erofs", flags, NULL);
    int error = errno;
    if (device >= 0)
        close(device);
    errno = error;
    return done;
}

static struct failure mount_lower(const struct spec *spec, int stage)
{
    char path[MAX_PATH];
    in_stage(spec, "image", path, sizeof(path));
    if (mkdirat(stage, "image", 0755) < 0 || mount_image((int)spec->root.image, path) < 0)
        return FAILED(STEP_ROOT_IMAGE, 0);
    int users = make_id_maps(spec->root.ids, 2);
    if (users < 0 || map_mount(path, users) < 0)
        return FAILED(STEP_ROOT_IMAGE, 1);
    close(users);
    return NO_FAILURE;
}

/* The image is a folder, and was copied before the host's names were left. */
static struct failure place_lower(int stage, int image)
{
    if (mkdirat(stage, "image", 0755) < 0 ||
        syscall(SYS_move_mount, image, "", stage, "image", MOVE_FROM_EMPTY_PATH) < 0)
        return FAILED(STEP_ROOT_IMAGE, 3);
    return NO_FAILURE;
}

static struct failure mount_upper(const struct spec *spec, int stage)
{
    char path[MAX_PATH], options[64];
    uid_t owner = spec->root.ids[0].host_uid;
    gid_t group = spec->root.ids[0].host_gid;
    snprintf(options, sizeof(options), "mode=0700,size=%llu", (unsigned long long)spec->root.size);
    in_stage(spec, "memory", path, sizeof(path));
    if (mkdirat(stage, "memory", 0700) < 0 || mount("memory", path, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0 ||
        mkdirat(stage, "memory/upper", 0755) < 0 || mkdirat(stage, "memory/work", 0700) < 0 ||
        fchownat(stage, "memory/upper", owner, group, 0) < 0)
        return FAILED(STEP_ROOT_MEMORY, 0);
    return NO_FAILURE;
}

/* Everybody's, and nobody else's to take away: links and mount points in them are the container's root's. */
static struct failure mount_private(const struct spec *spec, int stage)
{
    static const char *const names[] = {"tmp", "shm"};
    char path[MAX_PATH], options[96];
    snprintf(options, sizeof(options), "mode=1777,size=%llu,uid=%u,gid=%u", (unsigned long long)spec->root.size,
             spec->root.ids[0].host_uid, spec->root.ids[0].host_gid);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        in_stage(spec, names[i], path, sizeof(path));
        if (mkdirat(stage, names[i], 0755) < 0 || mount(names[i], path, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0)
            return FAILED(STEP_ROOT_MEMORY, i + 1);
    }
    return NO_FAILURE;
}

static struct failure mount_overlay(const struct spec *spec, int stage, int *root)
{
    char path[MAX_PATH], options[3 * MAX_PATH + 64];
    in_stage(spec, "root", path, sizeof(path));
    snprintf(options, sizeof(options), "lowerdir=%s/image,upperdir=%s/memory/upper,workdir=%s/memory/work%s", spec->stage,
             spec->stage, spec->stage, spec->count[TAG_USERS] ? ",userxattr" : "");
    if (mkdirat(stage, "root", 0755) < 0 || mount("root", path, "overlay", MS_NOSUID | MS_NODEV, options) < 0)
        return FAILED(STEP_ROOT_OVERLAY, 0);
    *root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *root < 0 ? FAILED(STEP_ROOT_OVERLAY, 1) : NO_FAILURE;
}

/* Where the container has it, so that a name that leads there is known for one; never where a link would lead us. */
static int show_processes(int root, char *place, size_t room)
{
    if (mkdirat(root, "proc", 0555) < 0 && errno != EEXIST)
        return -1;
    int folder = openat(root, "proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    snprintf(place, room, "/proc/self/fd/%d", folder);
    return folder < 0 || mount("/proc", place, NULL, MS_BIND | MS_REC, NULL) < 0 ? -1 : folder;
}

static int hide_where_processes_are(const struct spec *spec, int root, int cover, uint32_t *failing)
{
    char place[MAX_PATH];
    struct hiding hiding = {root, cover, spec->root.ids[0].host_uid};
    int folder = show_processes(root, place, sizeof(place));
    if (folder < 0)
        return -1;
    int done = hide_names(&hiding, spec->hidden, spec->count[TAG_HIDDEN], failing), error = errno;
    in_stage(spec, "root/proc", place, sizeof(place));
    if (umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
        return -1;
    close(folder);
    errno = error;
    return done;
}

static struct failure hide_denied(const struct spec *spec, int stage, int root)
{
    uint32_t failing = spec->count[TAG_HIDDEN];
    if (failing == 0)
        return NO_FAILURE;
    int cover = openat(stage, "cover", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0);
    if (cover < 0 || hide_where_processes_are(spec, root, cover, &failing) < 0)
        return FAILED(STEP_HIDE, failing);
    close(cover);
    return NO_FAILURE;
}

/* The folder that the last part of `path` is to be in, every link on the way refused, what is missing made. */
static int open_parent(int stage, const char *path, const struct spec *spec, const char **name)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    char above[MAX_PATH];
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    snprintf(above, sizeof(above), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    int folder = (int)syscall(SYS_openat2, stage, above, &how, sizeof(how));
    if (folder >= 0 || errno != ENOENT || !slash)
        return folder;
    const char *last;
    int parent = open_parent(stage, above, spec, &last);
    if (parent < 0)
        return -1;
    if (mkdirat(parent, last, 0755) == 0 &&
        fchownat(parent, last, spec->root.ids[0].host_uid, spec->root.ids[0].host_gid, AT_SYMLINK_NOFOLLOW) == 0)
        folder = openat(parent, last, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    close(parent);
    return folder;
}

static int fill(int folder, const char *name, mode_t mode, const char *content)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode & 07777);
    if (fd < 0)
        return -1;
    size_t length = strlen(content);
    int done = write(fd, content, length) == (ssize_t)length ? fchmod(fd, mode & 07777) : -1;
    close(fd);
    return done;
}

/* Nothing has the name afterwards; a folder goes only when there is nothing in it. */
static int clear_name(int folder, const char *name)
{
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT)
        return 0;
    return errno == EISDIR ? unlinkat(folder, name, AT_REMOVEDIR) : -1;
}

static int is_folder(int folder, const char *name)
{
    struct stat status;
    return fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
}

static int make_named(int folder, const char *name, const struct stage_entry *entry)
{
    if (clear_name(folder, name) < 0)
        return -1;
    if (S_ISDIR(entry->mode))
        return mkdirat(folder, name, entry->mode & 07777);
    return S_ISLNK(entry->mode) ? symlinkat(entry->content, folder, name)
                                : fill(folder, name, entry->mode, entry->content);
}

/* What the image has under the name is replaced, unless both are folders. */
static int make_entry(const struct spec *spec, int stage, const struct stage_entry *entry)
{
    const char *name;
    int folder = open_parent(stage, entry->path, spec, &name), done = -1;
    if (folder < 0)
        return -1;
    if (S_ISDIR(entry->mode) && is_folder(folder, name))
        done = 0;
    else if (make_named(folder, name, entry) == 0)
        done = fchownat(folder, name, spec->root.ids[0].host_uid, spec->root.ids[0].host_gid, AT_SYMLINK_NOFOLLOW);
    int error = errno;
    close(folder);
    errno = error;
    return done;
}

/* Control groups are ours to make: what LXC cannot see it neither makes nor leaves behind. One mount may lie on
 * another. In a user's namespace the host's mounts stay, and something is put over them. */
static int forget_cgroups(const struct spec *spec)
{
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (spec->count[TAG_USERS])
        return mount("none", "/sys/fs/cgroup", "tmpfs", flags, "mode=0555,size=4k") == 0 || errno == ENOENT ? 0 : -1;
    while (umount2("/sys/fs/cgroup", MNT_DETACH) == 0)
        ;
    return errno == EINVAL || errno == ENOENT ? 0 : -1;
}

/* LXC's lock of the container, which it would leave there, goes with the stage. */
static int keep_locks_here(void)
{
    static const char place[] = "/run/lxc";
    if (mkdir(place, 0755) < 0 && errno != EEXIST)
        return -1;
    return mount("locks", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=256k");
}

/* The kernel lets it be mounted only by whoever owns the network: so not by the container. */
static int mount_sysfs(int stage)
{
    if (mkdirat(stage, "sys", 0555) < 0)
        return -1;
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/sys", stage);
    return mount("sysfs", path, "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

struct failure build_root(const struct spec *spec, int stage, int image)
{
    int root = -1;
    struct failure failure = image < 0 ? mount_lower(spec, stage) : place_lower(stage, image);
    if (!failure.step)
        failure = mount_upper(spec, stage);
    if (!failure.step)
        failure = mount_private(spec, stage);
    if (!failure.step)
        failure = mount_overlay(spec, stage, &root);
    if (!failure.step)
        failure = hide_denied(spec, stage, root);
    for (uint32_t index = 0; !failure.step && index < spec->count[TAG_ENTRY]; index++)
        if (make_entry(spec, stage, &spec->entries[index]) < 0)
            failure = FAILED(STEP_ROOT_ENTRY, index);
    if (!failure.step && forget_cgroups(spec) < 0)
        failure = FAILED(STEP_ROOT_OVERLAY, 2);
    if (!failure.step && keep_locks_here() < 0)
        failure = FAILED(STEP_ROOT_OVERLAY, 3);
    if (!failure.step && spec->in_network >= 0 && mount_sysfs(stage) < 0)
        failure = FAILED(STEP_ROOT_OVERLAY, 4);
    return failure;
}
