/* A CONTAINER: this program once more, as process 1 of namespaces of its own. What the host says to it and hears of it
 * is the input and the output of a job. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

enum { NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS };

/* Ourselves, to be executed in a container: an image may have programs that are links to /proc/self/exe, and then root
 * there has a name for it. Nobody can change this one. */
static int program = -1;

static int copy_program(int copy)
{
    struct stat status;
    int source = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int done = source < 0 ? -1 : fstat(source, &status);
    for (off_t place = 0; done == 0 && place < status.st_size;)
        done = sendfile(copy, source, &place, (size_t)(status.st_size - place)) > 0 ? 0 : -1;
    if (done == 0)
        done = fcntl(copy, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    int error = errno;
    if (source >= 0)
        close(source);
    errno = error;
    return done;
}

int containers_prepare(void)
{
    if (program >= 0)
        return 0;
    int copy = memfd_create("agent", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (copy < 0 || copy_program(copy) < 0) {
        int error = errno;
        if (copy >= 0)
            close(copy);
        errno = error;
        return -1;
    }
    program = copy;
    return 0;
}

static pid_t fork_into_namespaces(const struct request *request, int group)
{
    struct clone_args arguments = {.flags = NAMESPACES | CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (__u64)group};
    if (request->count[AGENT_TAG_OWN_NETWORK])
        arguments.flags |= CLONE_NEWNET;
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
}

/* Answers only when it failed. */
static struct outcome contain(const struct job *job, const struct request *request, int link, int report)
{
    struct assembly assembly = {.request = request};
    group_path(&job->group, assembly.groups_path, sizeof(assembly.groups_path));
    setsid();
    restore_limits();
    if (mark_put(0, job->mark) < 0)
        return failed(AGENT_STEP_RLIMIT, "");
    if (request->count[AGENT_TAG_OWN_NETWORK] && raise_loopback() < 0)
        return failed(AGENT_STEP_NETWORK, "lo");
    struct outcome outcome = assemble_root(&assembly);
    if (outcome.step)
        return outcome;
    become_agent(assembly.devices, assembly.private, assembly.groups, link, program, report);
    return failed(AGENT_STEP_EXEC, "");
}

static struct outcome fork_it(struct job *job, const struct request *request, int group, int link)
{
    int ends[2];
    struct outcome outcome = SUCCESS;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return failed(AGENT_STEP_PIPES, "");
    job->pid = fork_into_namespaces(request, group);
    if (job->pid == 0) {
        outcome = contain(job, request, link, ends[1]);
        (void)!write(ends[1], &outcome, sizeof(outcome));
        _exit(127);
    }
    if (job->pid < 0)
        outcome = failed(AGENT_STEP_FORK, "");
    close(ends[1]);
    if (outcome.step)
        close(ends[0]);
    else if (job_watch_report(job, ends[0]) < 0)
        outcome = failed(AGENT_STEP_PIPES, "");
    return outcome;
}

/* Our end of the connection is read and written as if it were two. */
static struct outcome start(struct job *job, const struct request *request, int group)
{
    int ends[2];
    if (containers_prepare() < 0)
        return failed(AGENT_STEP_CONTAINER, "/proc/self/exe");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return failed(AGENT_STEP_PIPES, "");
    int writes = fcntl(ends[0], F_DUPFD_CLOEXEC, 0);
    output_open(job, AGENT_STDOUT, ends[0]);
    if (writes >= 0)
        input_open(job, writes);
    struct outcome outcome = writes < 0 ? failed(AGENT_STEP_PIPES, "") : fork_it(job, request, group, ends[1]);
    close(ends[1]);
    return outcome;
}

void start_container(uint32_t stream, char *message, size_t size)
{
    struct request request;
    struct job *job = job_new(stream, AGENT_EXEC);
    int group = -1;
    marks_check();
    errno = request_parse(AGENT_CONTAINER, message, size, &request);
    struct outcome outcome = errno ? failed(AGENT_STEP_MESSAGE, "") : SUCCESS;
    errno = EPERM; /* a sandbox, and a container, has no devices that we could take */
    if (outcome.step == 0 && link_is_socket())
        outcome = failed(AGENT_STEP_CONTAINER, "");
    if (outcome.step == 0) {
        job->is_container = 1;
        outcome = group_make_container(&job->group, &request, &group);
    }
    if (outcome.step == 0)
        outcome = start(job, &request, group);
    if (group >= 0)
        close(group);
    request_free(&request);
    if (outcome.step == 0)
        return;
    link_send_outcome(stream, &outcome);
    job_free(job);
}
