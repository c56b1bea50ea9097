/* Inside: process 1 of the sandbox. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher.h"

/* A name renamed away by the host makes no event; this often they are all looked at, in ms. */
enum { GUARD_INTERVAL = 100 };

/* Signals and ends that are taken before guards, host and caller are looked at again: whoever makes them without end
 * must not keep us from that. */
enum { BATCH = 64 };

struct init {
    struct guards guards;
    int control, signals, error_fd;
    const int *owners; /* MAX_OWNERS, -1 for none */
    pid_t workload;
    unsigned int abi;
    int status;
    int ended;
    int unstopped; /* whoever stops the workload is undone: it serves the host */
    int more;      /* may have ended than were taken */
};

static struct failure keep_only_named(const struct spec *spec)
{
    int keep[MAX_HOLD + MAX_GIVE + MAX_OWNERS + 2];
    size_t count = spec->count[TAG_HOLD];
    memcpy(keep, spec->hold, count * sizeof(*keep));
    memcpy(keep + count, spec->give, spec->count[TAG_GIVE] * sizeof(*keep));
    count += spec->count[TAG_GIVE];
    keep[count++] = spec->control;
    if (spec->stderr_fd >= 0)
        keep[count++] = spec->stderr_fd;
    for (uint32_t i = 0; i < spec->count[TAG_OWNER]; i++)
        keep[count++] = spec->owners[i];
    return keep_descriptors(keep, count, 0);
}

static struct failure start_workload(struct spec *spec, struct init *init)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    init->signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    int pipe_fds[2];
    if (init->signals < 0 || pipe2(pipe_fds, O_CLOEXEC) < 0)
        return FAILED(STEP_EVENTS, 0);
    init->workload = fork();
    if (init->workload < 0)
        return FAILED(STEP_FORK, 0);
    if (init->workload == 0) {
        struct failure failure = become_workload(spec, pipe_fds[1]);
        (void)!write(pipe_fds[1], &failure, sizeof(failure));
        _exit(EXIT_SETUP_FAILED);
    }
    close(pipe_fds[1]);
    init->error_fd = pipe_fds[0];
    return NO_FAILURE;
}

/* The workload alone holds its streams and its secrets, so that their other ends see it end. */
static struct failure let_go(struct spec *spec)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return FAILED(STEP_EVENTS, 1);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (dup2(null, fd) < 0)
            return FAILED(STEP_EVENTS, 2);
    close(null);
    if (spec->stderr_fd > STDERR_FILENO)
        close(spec->stderr_fd);
    for (uint32_t i = 0; i < spec->count[TAG_GIVE]; i++)
        close(spec->give[i]);
    spec_wipe(spec);
    return NO_FAILURE;
}

static void reap(struct init *init)
{
    int status, count = 0, options = init->unstopped ? WNOHANG | WUNTRACED : WNOHANG;
    pid_t pid = 0;
    while (count++ < BATCH && (pid = waitpid(-1, &status, options)) > 0)
        if (pid == init->workload && WIFSTOPPED(status))
            kill(pid, SIGCONT);
        else if (pid == init->workload) {
            init->status = status;
            init->ended = 1;
        }
    init->more = pid > 0;
}

/* Signals that come from outside (no sender in our namespace) are for everybody inside. */
static void take_signals(const struct init *init)
{
    struct signalfd_siginfo infos[BATCH];
    ssize_t got = read(init->signals, infos, sizeof(infos));
    for (ssize_t i = 0; i < got / (ssize_t)sizeof(*infos); i++)
        if (infos[i].ssi_signo != SIGCHLD && infos[i].ssi_code <= 0 && infos[i].ssi_pid == 0)
            kill(-1, (int)infos[i].ssi_signo);
}

/* The host's end closed means that the host's process is gone: nothing may outlive it. */
static void take_message(const struct init *init)
{
    struct wire_message message;
    ssize_t got = recv(init->control, &message, sizeof(message), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0)
        _exit(EXIT_SETUP_FAILED);
    if (got == (ssize_t)sizeof(message) && message.kind == KIND_SIGNAL && message.value > 0)
        kill(-1, message.value);
}

/* The pipe closes when the program has started, or carries why it has not. */
static struct failure take_start(struct init *init)
{
    struct failure failure = NO_FAILURE;
    ssize_t got;
    do
        got = read(init->error_fd, &failure, sizeof(failure));
    while (got < 0 && errno == EINTR);
    close(init->error_fd);
    init->error_fd = -1;
    if (got == (ssize_t)sizeof(failure))
        return failure;
    struct wire_message started = {.kind = KIND_STARTED, .index = init->abi};
    send_message(init->control, &started);
    return NO_FAILURE;
}

static uint64_t microseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

static int finish(const struct init *init)
{
    kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    struct wire_message ended = {.kind = KIND_ENDED,
                                 .value = init->status,
                                 .user_us = microseconds(usage.ru_utime),
                                 .system_us = microseconds(usage.ru_stime),
                                 .max_rss_kib = (uint64_t)usage.ru_maxrss};
    send_message(init->control, &ended);
    end_messages(init->control);
    return WIFSIGNALED(init->status) ? 128 + WTERMSIG(init->status) : WEXITSTATUS(init->status);
}

static int watch(struct init *init)
{
    while (!init->ended || init->error_fd >= 0) {
        struct pollfd events[] = {{init->signals, POLLIN, 0},
                                  {init->control, POLLIN, 0},
                                  {init->error_fd, POLLIN, 0},
                                  {init->owners[0], POLLIN, 0},
                                  {init->owners[1], POLLIN, 0},
                                  {init->guards.mounts, POLLPRI, 0}};
        int wait = init->more ? 0 : init->guards.count ? GUARD_INTERVAL : -1;
        if ((poll(events, 6, wait) < 0 && errno != EINTR) || events[3].revents || events[4].revents)
            return EXIT_SETUP_FAILED; /* who owns it, or its network, has ended: nothing may outlive that */
        struct failure lost = check_guards(&init->guards);
        if (lost.step) {
            report_failure(init->control, lost);
            return EXIT_SETUP_FAILED;
        }
        if (events[1].revents)
            take_message(init);
        if (events[0].revents)
            take_signals(init);
        if (events[0].revents || init->more)
            reap(init);
        if (events[2].revents) {
            struct failure failure = take_start(init);
            if (failure.step) {
                report_failure(init->control, failure);
                return exit_code_of(failure);
            }
        }
    }
    return finish(init);
}

/* LXC has all signals ignored, those that a C library keeps for itself among them: that lets nobody else at them. */
static void take_every_signal(void)
{
    unsigned long defaults[4] = {0}; /* the kernel's sigaction: handler, flags, restorer, mask */
    for (int number = 1; number < NSIG; number++)
        syscall(SYS_rt_sigaction, number, defaults, NULL, sizeof(defaults[3]));
}

int run_inside(struct spec *spec)
{
    struct init init = {.control = spec->control, .owners = spec->owners, .guards = {.mounts = -1}};
    init.abi = spec->count[TAG_LANDLOCK] ? landlock_abi() : 0;
    for (uint32_t none = spec->count[TAG_OWNER]; none < MAX_OWNERS; none++)
        spec->owners[none] = -1;
    init.unstopped = spec->count[TAG_UNSTOPPED] > 0;
    take_every_signal();
    errno = ECHILD;
    struct failure failure = getpid() == 1 ? NO_FAILURE : FAILED(STEP_NOT_INIT, 0);
    if (!failure.step && spec->count[TAG_USER])
        failure = drop_identity(spec->uid, spec->gid);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* what is on the host waits for us; becoming somebody else would reset it */
    if (!failure.step)
        failure = set_guards(spec, &init.guards);
    if (!failure.step)
        failure = check_masks(spec);
    if (!failure.step)
        failure = keep_only_named(spec);
    if (!failure.step)
        failure = watch_guards(&init.guards);
    if (!failure.step)
        failure = start_workload(spec, &init);
    if (!failure.step)
        failure = let_go(spec);
    if (failure.step) {
        report_failure(init.control, failure);
        return exit_code_of(failure);
    }
    return watch(&init);
}
