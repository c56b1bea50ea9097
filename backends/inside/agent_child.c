/* A child of the agent on its way to being a program. */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "execute.h"

enum { MAX_FILES = 8 * AGENT_MAX_STREAMS };

static struct rlimit files; /* as we were started */

/* No program can get any capability that it does not inherit. Root's, which a privileged one is to have, are made
 * inheritable before that; every other gives up the right to inherit them. Without rights of our own neither can be
 * changed, and need not be: no more can come of them. */
static void empty_bounding_set(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &head, sets) < 0)
        link_broken("its capabilities are unknown");
    for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        sets[i].inheritable = sets[i].permitted;
    if (syscall(SYS_capset, &head, sets) < 0 && errno != EPERM)
        link_broken("its capabilities cannot be set");
    for (unsigned long number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
        if (prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0 && errno != EPERM)
            link_broken("its capabilities cannot be dropped");
}

/* Each stream takes some descriptors of ours; what we run is to have as many as it would without us. */
void child_prepare(void)
{
    empty_bounding_set();
    marks_open();
    getrlimit(RLIMIT_NOFILE, &files);
    rlim_t most = files.rlim_max > MAX_FILES ? files.rlim_max : MAX_FILES;
    if (files.rlim_cur < MAX_FILES && set_limit(RLIMIT_NOFILE, MAX_FILES, most) < 0)
        set_limit(RLIMIT_NOFILE, files.rlim_max, files.rlim_max);
}

void restore_limits(void)
{
    set_limit(RLIMIT_NOFILE, files.rlim_cur, files.rlim_max);
}

int keep_only(int descriptor, int first)
{
    unsigned int kept = (unsigned int)descriptor, from = (unsigned int)first;
    if (kept > from && syscall(SYS_close_range, from, kept - 1, 0) < 0)
        return -1;
    return (int)syscall(SYS_close_range, kept + 1, UINT_MAX, 0);
}

static struct outcome take_streams(const struct request *request, const int fds[3], int report)
{
    if (setsid() < 0)
        return failed(AGENT_STEP_SESSION, "");
    if (request->count[AGENT_TAG_TTY] && ioctl(fds[0], TIOCSCTTY, 0) < 0)
        return failed(AGENT_STEP_TERMINAL, "");
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (dup2(fds[fd], fd) < 0)
            return failed(AGENT_STEP_PIPES, "");
    return keep_only(report, STDERR_FILENO + 1) < 0 ? failed(AGENT_STEP_PIPES, "") : SUCCESS;
}

/* Without rights of our own the groups cannot be changed, and need not be. */
static int become_user(const struct request *request)
{
    const struct agent_user *user = &request->user;
    if (setgroups(0, NULL) < 0 && (errno != EPERM || geteuid() != user->uid))
        return -1;
    if (setresgid(user->gid, user->gid, user->gid) < 0 || setresuid(user->uid, user->uid, user->uid) < 0)
        return -1;
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    return request->count[AGENT_TAG_PRIVILEGED] ? 0 : (int)syscall(SYS_capset, &head, none);
}

struct outcome become_program(const struct request *request, uint64_t mark, const int fds[3], int report)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGPIPE, SIG_DFL); /* the only one that the agent has changed */
    sigprocmask(SIG_SETMASK, &none, NULL);
    struct outcome outcome = take_streams(request, fds, report);
    if (outcome.step)
        return outcome;
    umask(request->umask & 0777);
    restore_limits();
    if (mark_put(0, mark) < 0)
        return failed(AGENT_STEP_RLIMIT, "");
    for (uint32_t i = 0; i < request->count[AGENT_TAG_RLIMIT]; i++) {
        const struct agent_rlimit *limit = &request->rlimits[i];
        if (set_limit(limit->resource, limit->soft, limit->hard) < 0)
            return failed(AGENT_STEP_RLIMIT, "");
    }
    if (become_user(request) < 0)
        return failed(AGENT_STEP_IDENTITY, "");
    if (chdir(request->cwd) < 0)
        return failed(AGENT_STEP_CWD, request->cwd);
    if (!request->count[AGENT_TAG_PRIVILEGED] && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return failed(AGENT_STEP_IDENTITY, "");
    if (request->filter && install_filter(request->filter, request->filter_bytes) < 0)
        return failed(AGENT_STEP_SECCOMP, "");
    if (request->count[AGENT_TAG_PORT])
        return pass_port((uint16_t)request->port, report);
    execute(request->argv, request->env); /* makes the process dumpable again: it has a new memory */
    return failed(AGENT_STEP_EXEC, request->argv[0]);
}
