/* PUT, GET, MOUNT, HIDE and SYNC: each in a child, so that nothing that is slow, or hangs, or fails holds the others up. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "agent.h"

static _Noreturn void work(const struct job *job, const struct request *request, int stream, int report)
{
    uint32_t kind = job->kind;
    int streams = kind == AGENT_GET ? STDOUT_FILENO : STDIN_FILENO;
    struct outcome outcome = SUCCESS;
    setsid();
    if ((stream >= 0 && dup2(stream, streams) < 0) || keep_only(report, first_of_none()) < 0)
        outcome = failed(AGENT_STEP_PIPES, "");
    else if (mark_put(0, job->mark) < 0)
        outcome = failed(AGENT_STEP_RLIMIT, "");
    else if (kind == AGENT_PUT)
        outcome = unpack(request);
    else if (kind == AGENT_GET)
        outcome = pack(request);
    else if (kind == AGENT_MOUNT)
        outcome = mount_it(request);
    else if (kind == AGENT_HIDE)
        outcome = hide_them(request);
    else
        sync();
    (void)!write(report, &outcome, sizeof(outcome));
    _exit(0);
}

/* The child's end of the one stream that a task has, or -1. */
static struct outcome make_stream(struct job *job, int *theirs)
{
    int ends[2];
    *theirs = -1;
    if (job->kind != AGENT_PUT && job->kind != AGENT_GET)
        return SUCCESS;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return failed(AGENT_STEP_PIPES, "");
    if (job->kind == AGENT_PUT)
        input_open(job, ends[1]);
    else
        output_open(job, AGENT_STDOUT, ends[0]);
    *theirs = ends[job->kind == AGENT_PUT ? 0 : 1];
    return SUCCESS;
}

static struct outcome start(struct job *job, const struct request *request)
{
    int ends[2], theirs;
    struct outcome outcome = make_stream(job, &theirs);
    if (outcome.step == 0 && pipe2(ends, O_CLOEXEC) == 0) {
        job->pid = fork();
        if (job->pid == 0)
            work(job, request, theirs, ends[1]);
        if (job->pid < 0)
            outcome = failed(AGENT_STEP_FORK, "");
        close(ends[1]);
        if (job_watch_report(job, ends[0]) < 0 && outcome.step == 0)
            outcome = failed(AGENT_STEP_PIPES, "");
    } else if (outcome.step == 0)
        outcome = failed(AGENT_STEP_PIPES, "");
    if (theirs >= 0)
        close(theirs);
    return outcome;
}

void start_task(uint32_t kind, uint32_t stream, char *message, size_t size)
{
    struct request request = {0};
    struct job *job = job_new(stream, kind);
    marks_check();
    if (kind == AGENT_HIDE)
        zygote_doubt();
    errno = kind == AGENT_SYNC ? 0 : request_parse(kind, message, size, &request);
    struct outcome outcome = errno ? failed(AGENT_STEP_MESSAGE, "") : start(job, &request);
    request_free(&request);
    if (outcome.step == 0) {
        job_begin(job);
        return;
    }
    link_send_outcome(stream, &outcome);
    job_free(job);
}
