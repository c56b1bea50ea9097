/* Outside: on the host, between our process and bubblewrap. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "execute.h"
#include "launcher.h"

/* No parent-death signal from here on: bubblewrap's child waits for bubblewrap for ever if that is killed between
 * clone and handshake. Process 1 looks after the caller instead, so that a set-up is always carried to its end. */
static struct failure parent_is_there(const struct spec *spec)
{
    errno = ESRCH;
    return getppid() == spec->parent ? NO_FAILURE : FAILED(STEP_PARENT_GONE, 0);
}

static struct failure join_cgroups(const struct spec *spec)
{
    for (uint32_t i = 0; i < spec->count[TAG_CGROUP]; i++)
        if (write(spec->cgroups[i], "0", 1) != 1)
            return FAILED(STEP_CGROUP, i);
    return NO_FAILURE;
}

/* When the host runs out of memory, sandboxes go first. */
static void volunteer_for_oom(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "1000", 4);
    close(fd);
}

static struct failure keep_only_named(struct spec *spec)
{
    int keep[MAX_KEEP + 1];
    size_t count = spec->count[TAG_KEEP];
    memcpy(keep, spec->keep, count * sizeof(*keep));
    keep[count++] = spec->control;
    return keep_descriptors(keep, count, 0);
}

/* Where the sandbox's network is there already, what that belongs to is, too. */
static struct failure join_users(const struct spec *spec)
{
    if (spec->in_users >= 0 && setns(spec->in_users, CLONE_NEWUSER) < 0)
        return FAILED(STEP_NETWORK, 0);
    if (spec->in_users < 0 && spec->count[TAG_USERS])
        return enter_users(spec);
    return NO_FAILURE;
}

static struct failure join_network(const struct spec *spec)
{
    if (spec->in_network >= 0 && setns(spec->in_network, CLONE_NEWNET) < 0)
        return FAILED(STEP_NETWORK, 1);
    return NO_FAILURE;
}

struct failure run_outside(struct spec *spec)
{
    struct failure failure = parent_is_there(spec);
    if (failure.step)
        return failure;
    reset_signals();
    setsid(); /* a terminal's signals are the caller's to forward; fails only for a leader, which is as good */
    failure = join_cgroups(spec);
    volunteer_for_oom();
    if (!failure.step)
        failure = join_users(spec);
    if (!failure.step)
        failure = join_network(spec);
    if (!failure.step && spec->stage)
        failure = build_stage(spec);
    else if (!failure.step && spec->count[TAG_USERS])
        failure = become_root_of_users();
    if (!failure.step && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        failure = FAILED(STEP_DUMPABLE, 0);
    if (!failure.step && spec->count[TAG_IDENTITY])
        failure = drop_identity(spec->uid, spec->gid);
    if (!failure.step)
        failure = keep_only_named(spec);
    if (failure.step)
        return failure;
    umask(022);
    char *nothing[] = {NULL};
    execve(spec->argv[0], spec->argv, nothing);
    return FAILED(STEP_EXEC_SANDBOX, 0);
}
