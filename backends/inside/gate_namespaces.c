/* Where a gate is: a network namespace of its own; a user's in a user namespace that owns it; and process 1 of a pid
 * namespace, so that nothing that it has started outlives it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "execute.h"
#include "gate.h"
#include "launcher.h"
#include "links.h"

static int enter_user_namespace(const struct step *step)
{
    struct spec spec = {0};
    uint32_t count = step->asked.numbers[2];
    if (count == 0 || count > MAX_IDS)
        return EINVAL;
    memcpy(spec.users, step->text, count * sizeof(*spec.users));
    spec.count[TAG_USERS] = count;
    if (!(step->asked.numbers[1] & GATE_MAPPERS))
        return enter_own_users(&spec).error;
    if (step->count != 2)
        return EINVAL;
    spec.mappers[0] = step->words[0];
    spec.mappers[1] = step->words[1];
    return enter_users(&spec).error;
}

/* The parent waits for its end, and hands that on. */
static _Noreturn void wait_for(pid_t pid, int control)
{
    int status = 0;
    close(control);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_SETUP_FAILED);
}

static int become_first(struct gate *gate)
{
    if (unshare(CLONE_NEWPID) < 0)
        return errno;
    pid_t pid = fork();
    if (pid < 0)
        return errno;
    if (pid > 0)
        wait_for(pid, gate->control);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return 0;
}

static int open_networks(struct gate *gate)
{
    gate->host_links = open_links();
    gate->host_watch = watch_addresses();
    if (gate->host_links < 0 || gate->host_watch < 0 || unshare(CLONE_NEWNET) < 0)
        return errno;
    gate->links = open_links();
    gate->network_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    return gate->links < 0 || gate->network_fd < 0 ? errno : 0;
}

int enter_gate(const struct step *step, struct gate *gate)
{
    uint32_t flags = step->asked.numbers[1];
    if ((uint32_t)getppid() != step->asked.numbers[0])
        return ESRCH;
    reset_signals();
    int error = flags & GATE_USERS ? enter_user_namespace(step) : 0;
    if (!error && flags & GATE_USERS && (gate->users_fd = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC)) < 0)
        error = errno;
    if (!error)
        error = become_first(gate);
    if (!error && flags & GATE_HELPS)
        error = start_waiting_helper(gate);
    if (!error)
        error = open_networks(gate);
    if (!error && flags & GATE_HELPS)
        error = start_anchor(gate);
    return error;
}
