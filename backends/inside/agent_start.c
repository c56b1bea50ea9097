/* An EXEC: its streams, its control group, its process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

void close_streams(int fds[3])
{
    for (int i = 0; i < 3; i++) {
        if (fds[i] >= 0 && (i == 0 || fds[i] != fds[i - 1]))
            close(fds[i]);
    }
    fds[0] = fds[1] = fds[2] = -1;
}

/* Owned by the program's user, who may then open it again by its name in /proc. */
static int make_pipe(const struct request *request, int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    return fchown(ends[0], request->user.uid, request->user.gid);
}

static struct outcome make_pipes(struct job *job, const struct request *request, int fds[3])
{
    int ends[2];
    if (request->count[AGENT_TAG_NO_INPUT]) {
        fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fds[0] < 0)
            return failed(AGENT_STEP_PIPES, "/dev/null");
    } else {
        if (make_pipe(request, ends) < 0)
            return failed(AGENT_STEP_PIPES, "");
        fds[0] = ends[0];
        input_open(job, ends[1]);
    }
    for (int channel = AGENT_STDOUT; channel <= AGENT_STDERR; channel++) {
        if (make_pipe(request, ends) < 0)
            return failed(AGENT_STEP_PIPES, "");
        output_open(job, (enum agent_channel)channel, ends[0]);
        fds[channel] = ends[1];
    }
    return SUCCESS;
}

/* The other side is opened through the master: no name in anybody's /dev/pts is trusted. */
static struct outcome make_terminal(struct job *job, const struct request *request, int fds[3])
{
    int unlocked = 0;
    struct winsize size = {.ws_row = request->tty.rows, .ws_col = request->tty.columns};
    job->terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (job->terminal < 0 || ioctl(job->terminal, TIOCSPTLCK, &unlocked) < 0)
        return failed(AGENT_STEP_TERMINAL, "/dev/ptmx");
    int slave = ioctl(job->terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || fchown(slave, request->user.uid, (gid_t)-1) < 0 || fchmod(slave, 0620) < 0 ||
        ioctl(job->terminal, TIOCSWINSZ, &size) < 0)
        return failed(AGENT_STEP_TERMINAL, "");
    fds[0] = fds[1] = fds[2] = slave;
    int reads = fcntl(job->terminal, F_DUPFD_CLOEXEC, 0), writes = fcntl(job->terminal, F_DUPFD_CLOEXEC, 0);
    if (reads < 0 || writes < 0)
        return failed(AGENT_STEP_TERMINAL, "");
    output_open(job, AGENT_STDOUT, reads);
    input_open(job, writes);
    return SUCCESS;
}

struct outcome make_streams(struct job *job, const struct request *request, int fds[3])
{
    fds[0] = fds[1] = fds[2] = -1;
    struct outcome outcome = request->count[AGENT_TAG_TTY] ? make_terminal(job, request, fds)
                                                           : make_pipes(job, request, fds);
    if (outcome.step)
        close_streams(fds);
    return outcome;
}

/* Into its control group from its first moment on. */
static pid_t fork_into(const struct control_group *group)
{
    if (group->fd < 0)
        return fork();
    struct clone_args arguments = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (__u64)group->fd};
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
}

static struct outcome start_program(struct job *job, const struct request *request)
{
    int fds[3], ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return failed(AGENT_STEP_PIPES, "");
    struct outcome outcome = make_streams(job, request, fds);
    if (outcome.step == 0) {
        job->pid = fork_into(&job->group);
        if (job->pid == 0) {
            outcome = become_program(request, job->mark, fds, ends[1]);
            (void)!write(ends[1], &outcome, sizeof(outcome));
            _exit(127);
        }
        if (job->pid < 0)
            outcome = failed(AGENT_STEP_FORK, request->argv[0]);
    }
    close(ends[1]);
    close_streams(fds);
    if (outcome.step == 0 && job_watch_report(job, ends[0]) < 0)
        outcome = failed(AGENT_STEP_PIPES, "");
    else if (outcome.step)
        close(ends[0]);
    return outcome;
}

void start_exec(uint32_t stream, char *message, size_t size)
{
    struct request request;
    struct job *job = job_new(stream, AGENT_EXEC);
    marks_check();
    struct outcome outcome = SUCCESS;
    errno = request_parse(AGENT_EXEC, message, size, &request);
    if (errno == 0 && marks_are_touched(&request))
        errno = EINVAL;
    if (errno)
        outcome = failed(AGENT_STEP_MESSAGE, "");
    else
        outcome = group_make(&job->group, &request);
    job->timeout = request.timeout;
    if (outcome.step == 0)
        outcome = request.source_text ? zygote_start(job, &request, message, size) : start_program(job, &request);
    request_free(&request);
    if (outcome.step == 0)
        return;
    link_send_outcome(stream, &outcome);
    job_free(job);
}
