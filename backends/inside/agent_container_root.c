/* A container's root: its image below, memory or a disk above it, the files of its system in it. What belongs to its
 * agent stays in the root of the machine, which the new one is mounted over: no path leads there, nor does `..`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "mount_numbers.h"

#define PLACE "/container"
#define LOWER PLACE "/lower"
#define UPPER PLACE "/upper"
#define ROOT PLACE "/root"

static const unsigned long safe = MS_NOSUID | MS_NODEV;

static struct outcome mount_disk(const char *device, const char *type, const char *target, unsigned long flags)
{
    errno = ENODEV;
    if (!is_of_disks(type))
        return failed(AGENT_STEP_MOUNT, type);
    forget_disk(device);
    return mount(device, target, type, flags, NULL) < 0 ? failed(AGENT_STEP_MOUNT, device) : SUCCESS;
}

/* One container's at a time: two that write to one file system as their own would spoil it for both. */
static int is_free(const char *device)
{
    int fd = open(device, O_RDONLY | O_EXCL | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static struct outcome mount_upper(const struct request *request)
{
    char options[64];
    if (request->upper && !is_free(request->upper))
        return failed(AGENT_STEP_MOUNT, request->upper);
    if (request->upper)
        return mount_disk(request->upper, "ext4", UPPER, safe);
    int length = snprintf(options, sizeof(options), "mode=0755");
    if (request->count[AGENT_TAG_SIZE])
        snprintf(options + length, sizeof(options) - (size_t)length, ",size=%llu", (unsigned long long)request->size);
    return mount("tmpfs", UPPER, "tmpfs", safe, options) < 0 ? failed(AGENT_STEP_MOUNT, "tmpfs") : SUCCESS;
}

/* A disk may have been the upper one before: then it stays as it is. The root's owner and mode are the upper one's. */
static struct outcome make_upper(void)
{
    struct stat status;
    int made = mkdir(UPPER "/files", 0755);
    if ((made < 0 && errno != EEXIST) || (mkdir(UPPER "/work", 0755) < 0 && errno != EEXIST))
        return failed(AGENT_STEP_MOUNT_POINT, UPPER);
    if (made == 0 && (stat(LOWER, &status) < 0 || chown(UPPER "/files", status.st_uid, status.st_gid) < 0 ||
                      chmod(UPPER "/files", status.st_mode & 07777) < 0))
        return failed(AGENT_STEP_MOUNT_POINT, "/");
    return SUCCESS;
}

static struct outcome mount_layers(const struct request *request)
{
    static const char *const folders[] = {PLACE, LOWER, UPPER, ROOT, PLACE "/private", PLACE "/empty"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++) {
        if (mkdir(folders[i], i < 5 ? 0700 : 0555) < 0 && (i > 0 || errno != EEXIST))
            return failed(AGENT_STEP_MOUNT_POINT, folders[i]);
        if (i == 0 && mount("tmpfs", PLACE, "tmpfs", safe, "mode=0700,size=1m") < 0)
            return failed(AGENT_STEP_MOUNT, "tmpfs");
    }
    const char *type = request->file_system ? request->file_system : "";
    struct outcome outcome = mount_disk(request->source ? request->source : "", type, LOWER, MS_RDONLY | safe);
    if (outcome.step == 0)
        outcome = mount_upper(request);
    if (outcome.step == 0)
        outcome = make_upper();
    if (outcome.step)
        return outcome;
    unsigned long flags = mount_flags_of(request->mount_flags & ~(uint32_t)AGENT_MOUNT_READ_ONLY);
    static const char options[] = "lowerdir=" LOWER ",upperdir=" UPPER "/files,workdir=" UPPER "/work";
    return mount("overlay", ROOT, "overlay", flags, options) < 0 ? failed(AGENT_STEP_MOUNT, "overlay") : SUCCESS;
}

static struct outcome open_places(struct assembly *assembly)
{
    const struct {
        int *fd, flags;
        const char *path;
    } places[] = {{&assembly->devices, O_PATH | O_DIRECTORY, "/dev"},
                  {&assembly->private, O_PATH | O_DIRECTORY, PLACE "/private"},
                  {&assembly->groups, O_PATH | O_DIRECTORY, assembly->groups_path},
                  {&assembly->root, O_PATH | O_DIRECTORY, ROOT},
                  {&assembly->empty_file, O_RDONLY | O_CREAT | O_EXCL, PLACE "/nothing"},
                  {&assembly->empty_folder, O_PATH | O_DIRECTORY, PLACE "/empty"},
                  {&assembly->resolver, O_PATH, "/etc/resolv.conf"}};
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++)
        if ((*places[i].fd = open(places[i].path, places[i].flags | O_CLOEXEC, 0444)) < 0)
            return failed(AGENT_STEP_OPEN, places[i].path);
    return SUCCESS;
}

static int make_read_only(int mount)
{
    const struct {
        uint64_t set, clear, propagation, userns_fd;
    } attributes = {ATTR_READ_ONLY, 0, 0, 0};
    return (int)syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &attributes, sizeof(attributes));
}

/* The machine's own are taken away; what was mounted beside them is covered, as they would be. */
static int change_root(int root)
{
    static const char *const old[] = {"dev", "proc", "run", "sys", "tmp", "etc/hostname", "etc/machine-id", "etc/resolv.conf"};
    int below = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (below < 0 || fchdir(root) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
        return -1;
    if (fchdir(below) < 0)
        return -1;
    for (size_t i = 0; i < sizeof(old) / sizeof(*old); i++)
        if (umount2(old[i], MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
            return -1;
    close(below);
    return chdir("/");
}

static int leave_console(void)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (nothing < 0 || dup2(nothing, fd) < 0)
            return -1;
    return 0;
}

struct outcome assemble_root(struct assembly *assembly)
{
    const struct request *request = assembly->request;
    umask(0);
    if (sethostname(request->hostname, strlen(request->hostname)) < 0)
        return failed(AGENT_STEP_HOSTNAME, request->hostname);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return failed(AGENT_STEP_MOUNT, "/");
    struct outcome outcome = mount_layers(request);
    if (outcome.step == 0)
        outcome = open_places(assembly);
    if (outcome.step == 0)
        outcome = make_system(assembly);
    if (outcome.step)
        return outcome;
    if ((request->mount_flags & AGENT_MOUNT_READ_ONLY) && make_read_only(assembly->root) < 0)
        return failed(AGENT_STEP_MOUNT, "/");
    if (change_root(assembly->root) < 0 || leave_console() < 0)
        return failed(AGENT_STEP_CONTAINER, "/");
    return SUCCESS;
}
