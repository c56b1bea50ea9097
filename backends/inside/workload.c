/* The child of process 1 on its way to being the workload. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "execute.h"
#include "launcher.h"

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
    for (uint32_t i = 0; i < spec->count[TAG_RLIMIT]; i++)
        if (set_limit(spec->rlimits[i].resource, spec->rlimits[i].soft, spec->rlimits[i].hard) < 0)
            return FAILED(STEP_RLIMIT, i);
    return NO_FAILURE;
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
    if (failure.step)
        return failure;
    if (spec->filter && install_filter(spec->filter, spec->filter_bytes) < 0)
        return FAILED(STEP_SECCOMP, 0);
    execute(spec->argv, spec->env); /* also makes the process dumpable again: it has a new memory */
    return FAILED(STEP_EXEC, 0);
}
