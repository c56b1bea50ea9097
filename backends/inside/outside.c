/* Outside: on the host, between our process and bubblewrap. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

/* Ambient capabilities are always among the permitted ones. */
static int has_no_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    if (syscall(SYS_capset, &header, data) < 0 || syscall(SYS_capget, &header, data) < 0)
        return 0;
    errno = EPERM;
    return !(data[0].effective | data[0].permitted | data[0].inheritable | data[1].effective | data[1].permitted |
             data[1].inheritable);
}

static int ids_are(uid_t uid, gid_t gid)
{
    uid_t real_uid, effective_uid, saved_uid;
    gid_t real_gid, effective_gid, saved_gid;
    if (getresuid(&real_uid, &effective_uid, &saved_uid) < 0 || getresgid(&real_gid, &effective_gid, &saved_gid) < 0)
        return 0;
    errno = EPERM;
    return real_uid == uid && effective_uid == uid && saved_uid == uid && real_gid == gid && effective_gid == gid &&
           saved_gid == gid && getgroups(0, NULL) == 0;
}

static struct failure drop_identity(const struct spec *spec)
{
    errno = EINVAL;
    if (spec->uid == 0 || spec->gid == 0 || spec->uid == (uid_t)-1 || spec->gid == (gid_t)-1)
        return FAILED(STEP_IDENTITY, 0);
    for (unsigned long capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL) /* EINVAL: beyond the last one */
            return FAILED(STEP_IDENTITY, 1);
    if (setgroups(0, NULL) < 0 || setresgid(spec->gid, spec->gid, spec->gid) < 0 ||
        setresuid(spec->uid, spec->uid, spec->uid) < 0)
        return FAILED(STEP_IDENTITY, 2);
    if (!has_no_capabilities() || !ids_are(spec->uid, spec->gid))
        return FAILED(STEP_IDENTITY, 3);
    return NO_FAILURE;
}

static struct failure keep_only_named(struct spec *spec)
{
    int keep[MAX_KEEP + 1];
    size_t count = spec->count[TAG_KEEP];
    memcpy(keep, spec->keep, count * sizeof(*keep));
    keep[count++] = spec->control;
    return keep_descriptors(keep, count, 0);
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
    if (!failure.step && spec->stage)
        failure = build_stage(spec);
    if (!failure.step && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        failure = FAILED(STEP_DUMPABLE, 0);
    if (!failure.step && spec->count[TAG_IDENTITY])
        failure = drop_identity(spec);
    if (!failure.step)
        failure = keep_only_named(spec);
    if (failure.step)
        return failure;
    umask(022);
    char *nothing[] = {NULL};
    execve(spec->argv[0], spec->argv, nothing);
    return FAILED(STEP_EXEC_SANDBOX, 0);
}
