/* /proc, /sys, /dev and the files of /etc that a container has, over whatever its image has there. The image is
 * somebody else's: no symbolic link of it is followed. What the kernel shows to root alone stays out of sight, and what
 * of it can be written is read-only: root in here may have no capabilities, but owns those files. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent.h"
#include "agent_below.h"
#include "hide.h"
#include "mount_numbers.h"

static const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/* A folder of the image's, whatever had the name. */
static int make_folder(int parent, const char *name)
{
    int place = open_below(parent, name, O_PATH | O_DIRECTORY);
    if (place >= 0)
        return place;
    if ((errno == ENOTDIR || errno == ELOOP) && unlinkat(parent, name, 0) < 0)
        return -1;
    if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
        return -1;
    return open_below(parent, name, O_PATH | O_DIRECTORY);
}

/* The root of what is mounted there now, to be read. -1 with errno. */
static int mount_at(int parent, const char *name, const char *type, unsigned long flags, const char *options)
{
    int place = make_folder(parent, name);
    int done = place < 0 || fchdir(place) < 0 ? -1 : mount(type, ".", type, flags, options);
    int error = errno;
    if (place >= 0)
        close(place);
    errno = error;
    return done < 0 ? -1 : open_below(parent, name, O_RDONLY | O_DIRECTORY);
}

/* `source` (-1: itself, read-only) over what is there. */
static int cover(int folder, const char *name, int source)
{
    int place = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int done = place < 0 ? -1 : bind_object(source < 0 ? place : source, place, MS_RDONLY | safe);
    int error = errno;
    if (place >= 0)
        close(place);
    errno = error;
    return done;
}

static int is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

static int harden_entry(const struct assembly *assembly, int folder, const char *name)
{
    static const char *const telling[] = {"acpi", "asound", "keys", "key-users", "scsi", "timer_list", NULL};
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    int is_folder = S_ISDIR(status.st_mode), hides = is_one_of(name, telling);
    if (is_folder)
        return cover(folder, name, hides ? assembly->empty_folder : -1);
    if (!S_ISREG(status.st_mode))
        return 0;
    if (hides || !(status.st_mode & S_IROTH))
        return cover(folder, name, assembly->empty_file);
    return status.st_mode & 0222 ? cover(folder, name, -1) : 0;
}

/* All but what is about processes, each of which is its own user's. */
static struct outcome make_proc(const struct assembly *assembly)
{
    int fd = mount_at(assembly->root, "proc", "proc", safe, NULL);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder)
        return failed(AGENT_STEP_MOUNT, "/proc");
    struct outcome outcome = SUCCESS;
    for (struct dirent *entry; outcome.step == 0 && (entry = readdir(folder));) {
        const char first = entry->d_name[0];
        if (first != '.' && (first < '0' || first > '9') && harden_entry(assembly, fd, entry->d_name) < 0)
            outcome = failed(AGENT_STEP_MOUNT, entry->d_name);
    }
    closedir(folder);
    return outcome;
}

static struct outcome make_sys(const struct assembly *assembly)
{
    int folder = mount_at(assembly->root, "sys", "sysfs", MS_RDONLY | safe, NULL);
    int groups = folder < 0 ? -1 : open_below(folder, "fs/cgroup", O_PATH | O_DIRECTORY);
    struct outcome outcome = SUCCESS;
    if (groups < 0 || bind_object(assembly->groups, groups, MS_RDONLY | safe) < 0)
        outcome = failed(AGENT_STEP_MOUNT, "/sys");
    else if (cover(folder, "firmware", assembly->empty_folder) < 0 && errno != ENOENT)
        outcome = failed(AGENT_STEP_MOUNT, "/sys/firmware");
    close(groups);
    close(folder);
    return outcome;
}

static int make_devices(int folder)
{
    static const struct {
        const char *name;
        unsigned int major, minor;
    } devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const char *const links[][2] = {{"/proc/self/fd", "fd"},
                                           {"/proc/self/fd/0", "stdin"},
                                           {"/proc/self/fd/1", "stdout"},
                                           {"/proc/self/fd/2", "stderr"},
                                           {"pts/ptmx", "ptmx"}};
    for (size_t i = 0; i < sizeof(devices) / sizeof(*devices); i++)
        if (mknodat(folder, devices[i].name, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) < 0)
            return -1;
    for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++)
        if (symlinkat(links[i][0], folder, links[i][1]) < 0)
            return -1;
    return 0;
}

/* Read-only in the end: the agent itself opens names in it, and root in here could make others of them. */
static struct outcome make_dev(const struct assembly *assembly)
{
    const struct {
        uint64_t set, clear, propagation, userns_fd;
    } attributes = {ATTR_READ_ONLY, 0, 0, 0};
    int folder = mount_at(assembly->root, "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k");
    int terminals = folder < 0 || make_devices(folder) < 0
                        ? -1
                        : mount_at(folder, "pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,mode=0620,gid=5,ptmxmode=0666");
    int shared = terminals < 0 ? -1 : mount_at(folder, "shm", "tmpfs", safe, "mode=1777");
    int done = shared < 0 ? -1 : (int)syscall(SYS_mount_setattr, folder, "", AT_EMPTY_PATH, &attributes, sizeof(attributes));
    struct outcome outcome = done < 0 ? failed(AGENT_STEP_MOUNT, "/dev") : SUCCESS;
    close(shared);
    close(terminals);
    close(folder);
    return outcome;
}

/* The name is the image's to have as whatever it likes, but not a folder. */
static int make_file(int folder, const char *name)
{
    if (unlinkat(folder, name, 0) < 0 && errno != ENOENT)
        return -1;
    return openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
}

static int write_file(int folder, const char *name, const char *text)
{
    int fd = make_file(folder, name);
    ssize_t put = fd < 0 ? -1 : write(fd, text, strlen(text));
    if (fd >= 0)
        close(fd);
    return put == (ssize_t)strlen(text) ? 0 : -1;
}

/* Whom to ask for names is told the machine, at any time. */
static int show_resolver(const struct assembly *assembly, int folder)
{
    int place = make_file(folder, "resolv.conf");
    if (place < 0)
        return -1;
    close(place);
    return assembly->request->count[AGENT_TAG_OWN_NETWORK] ? 0 : cover(folder, "resolv.conf", assembly->resolver);
}

static struct outcome make_etc(const struct assembly *assembly)
{
    char hostname[128], hosts[256];
    const char *name = assembly->request->hostname;
    snprintf(hostname, sizeof(hostname), "%s\n", name);
    snprintf(hosts, sizeof(hosts), "127.0.0.1 localhost %s\n::1 localhost\n", name);
    if (mkdirat(assembly->root, "etc", 0755) < 0 && errno != EEXIST)
        return failed(AGENT_STEP_MOUNT_POINT, "/etc");
    int folder = open_below(assembly->root, "etc", O_PATH | O_DIRECTORY);
    if (folder < 0)
        return failed(AGENT_STEP_MOUNT_POINT, "/etc");
    struct outcome outcome = SUCCESS;
    if (write_file(folder, "hostname", hostname) < 0)
        outcome = failed(AGENT_STEP_MOUNT_POINT, "/etc/hostname");
    else if (write_file(folder, "hosts", hosts) < 0)
        outcome = failed(AGENT_STEP_MOUNT_POINT, "/etc/hosts");
    else if (show_resolver(assembly, folder) < 0)
        outcome = failed(AGENT_STEP_MOUNT_POINT, "/etc/resolv.conf");
    close(folder);
    return outcome;
}

struct outcome make_system(const struct assembly *assembly)
{
    struct outcome (*const steps[])(const struct assembly *) = {make_proc, make_sys, make_dev, make_etc};
    struct outcome outcome = SUCCESS;
    for (size_t i = 0; outcome.step == 0 && i < sizeof(steps) / sizeof(*steps); i++)
        outcome = steps[i](assembly);
    return outcome;
}
