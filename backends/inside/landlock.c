#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

/* From the kernel's interface, version by version; headers on older systems stop early. */
#define QUERY_ABI 1u
#define RULE_PATH_BENEATH 1
#define FS_EXECUTE (1ull << 0)
#define FS_WRITE_FILE (1ull << 1)
#define FS_READ_FILE (1ull << 2)
#define FS_FIRST_ABI ((1ull << 13) - 1)
#define FS_REFER (1ull << 13)
#define FS_TRUNCATE (1ull << 14)
#define FS_IOCTL_DEV (1ull << 15)
#define FS_FOR_FILES (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define NET_TCP 3ull
#define SCOPES 3ull

struct ruleset {
    uint64_t handled_fs, handled_net, scoped;
};

struct path_rule {
    uint64_t access;
    int32_t fd;
} __attribute__((packed));

unsigned int landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, QUERY_ABI);
    return abi > 0 ? (unsigned int)abi : 0;
}

static struct ruleset cut_to(const struct wire_landlock *wanted, unsigned int abi)
{
    uint64_t fs = FS_FIRST_ABI | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) |
                  (abi >= 5 ? FS_IOCTL_DEV : 0);
    return (struct ruleset){wanted->handled_fs & fs, wanted->handled_net & (abi >= 4 ? NET_TCP : 0),
                            wanted->scoped & (abi >= 6 ? SCOPES : 0)};
}

static int allow(int ruleset, int fd, uint64_t access)
{
    struct path_rule rule = {access, fd};
    return access ? (int)syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0) : 0;
}

static int allow_path(int ruleset, uint64_t handled, const struct landlock_path *wanted)
{
    int fd = open(wanted->path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return wanted->optional && (errno == ENOENT || errno == ENOTDIR) ? 0 : -1;
    struct stat status;
    int result = fstat(fd, &status);
    uint64_t access = wanted->access & handled;
    if (result == 0 && !S_ISDIR(status.st_mode))
        access &= FS_FOR_FILES;
    if (result == 0)
        result = allow(ruleset, fd, access);
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

/* Without this, /dev/stdout and its like could not be opened again when a stream is a file of the host. */
static int allow_standard_streams(int ruleset, uint64_t handled)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        struct stat status;
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || (flags & O_PATH) || fstat(fd, &status) < 0)
            continue;
        if (!S_ISREG(status.st_mode) && !S_ISCHR(status.st_mode))
            continue;
        int mode = flags & O_ACCMODE;
        uint64_t access = S_ISCHR(status.st_mode) ? FS_IOCTL_DEV : 0;
        access |= mode != O_WRONLY ? FS_READ_FILE : 0;
        access |= mode != O_RDONLY ? FS_WRITE_FILE | FS_TRUNCATE : 0;
        if (allow(ruleset, fd, access & handled) < 0 && errno != EBADFD && errno != EBADF)
            return -1; /* EBADFD: a file of no filesystem, which Landlock leaves alone */
    }
    return 0;
}

struct failure apply_landlock(const struct spec *spec)
{
    unsigned int abi = landlock_abi();
    errno = EOPNOTSUPP;
    if (abi < spec->landlock.minimum_abi)
        return FAILED(STEP_LANDLOCK, abi);
    if (abi == 0)
        return NO_FAILURE;
    struct ruleset wanted = cut_to(&spec->landlock, abi);
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &wanted, sizeof(wanted), 0);
    if (ruleset < 0)
        return FAILED(STEP_LANDLOCK, abi);
    for (uint32_t i = 0; i < spec->count[TAG_LANDLOCK_PATH]; i++)
        if (allow_path(ruleset, wanted.handled_fs, &spec->rules[i]) < 0)
            return FAILED(STEP_LANDLOCK_PATH, i);
    if (allow_standard_streams(ruleset, wanted.handled_fs) < 0)
        return FAILED(STEP_LANDLOCK, abi);
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        return FAILED(STEP_LANDLOCK, abi);
    close(ruleset);
    return NO_FAILURE;
}
