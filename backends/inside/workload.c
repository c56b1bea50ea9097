/* The child of process 1 on its way to being the workload. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

static struct failure arrange_streams(const struct spec *spec, int error_fd)
{
    if (setsid() < 0)
        return FAILED(STEP_SESSION, 0);
    if (spec->count[TAG_TTY] && ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0)
        return FAILED(STEP_TERMINAL, 0);
    if (spec->stderr_fd >= 0 && dup2(spec->stderr_fd, STDERR_FILENO) < 0)
        return FAILED(STEP_STDERR, 0);
    int keep[MAX_GIVE + 1];
    size_t count = spec->count[TAG_GIVE];
    memcpy(keep, spec->give, count * sizeof(*keep));
    keep[count++] = error_fd;
    return keep_descriptors(keep, count, 0);
}

static struct failure set_limits(const struct spec *spec)
{
    for (uint32_t i = 0; i < spec->count[TAG_RLIMIT]; i++) {
        struct rlimit64 limit = {spec->rlimits[i].soft, spec->rlimits[i].hard};
        if (syscall(SYS_prlimit64, 0, spec->rlimits[i].resource, &limit, NULL) < 0)
            return FAILED(STEP_RLIMIT, i);
    }
    return NO_FAILURE;
}

static struct failure apply_filter(const struct spec *spec)
{
    if (!spec->filter)
        return NO_FAILURE;
    size_t count = spec->filter_bytes / sizeof(struct sock_filter);
    struct sock_filter *instructions = calloc(count, sizeof(*instructions)); /* the record may be unaligned */
    if (!instructions)
        return FAILED(STEP_SECCOMP, 0);
    memcpy(instructions, spec->filter, spec->filter_bytes);
    struct sock_fprog program = {(unsigned short)count, instructions};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        return FAILED(STEP_SECCOMP, 0);
    return NO_FAILURE;
}

static const char *path_of(char **env)
{
    for (; *env; env++)
        if (strncmp(*env, "PATH=", 5) == 0)
            return *env + 5;
    return DEFAULT_PATH;
}

/* The lookup of execvp(3), in the workload's own PATH; a program that may not be run is reported as that. */
static void execute_from_path(char **argv, char **env)
{
    const char *path = path_of(env);
    size_t name_length = strlen(argv[0]);
    char *candidate = malloc(strlen(path) + name_length + 2);
    if (!candidate)
        return;
    int error = ENOENT;
    for (const char *start = path;; start++) {
        size_t length = strcspn(start, ":");
        memcpy(candidate, start, length);
        candidate[length] = '/';
        memcpy(candidate + length + (length > 0), argv[0], name_length + 1);
        execve(candidate, argv, env);
        if (errno == EACCES)
            error = EACCES;
        else if (errno != ENOENT && errno != ENOTDIR)
            return;
        start += length;
        if (*start == '\0')
            break;
    }
    errno = error;
}

static void execute(char **argv, char **env)
{
    if (argv[0][0] == '\0')
        errno = ENOENT;
    else if (strchr(argv[0], '/'))
        execve(argv[0], argv, env);
    else
        execute_from_path(argv, env);
}

struct failure become_workload(struct spec *spec, int error_fd)
{
    reset_signals();
    struct failure failure = arrange_streams(spec, error_fd);
    if (failure.step)
        return failure;
    umask(spec->umask);
    if (chdir(spec->cwd) < 0)
        return FAILED(STEP_CWD, 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return FAILED(STEP_NO_NEW_PRIVS, 0);
    if (spec->count[TAG_LANDLOCK])
        failure = apply_landlock(spec);
    if (!failure.step)
        failure = set_limits(spec);
    if (!failure.step)
        failure = apply_filter(spec);
    if (failure.step)
        return failure;
    execute(spec->argv, spec->env); /* also makes the process dumpable again: it has a new memory */
    return FAILED(STEP_EXEC, 0);
}
