/* The requests that live for a while, from the start of their process to the answer after its end. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

struct job *jobs;
static int anything_ran; /* over this connection, and may still be there */

struct job *job_find(uint32_t stream)
{
    for (struct job *job = jobs; job; job = job->next)
        if (job->stream == stream)
            return job;
    return NULL;
}

int job_count(void)
{
    int count = 0;
    for (struct job *job = jobs; job; job = job->next)
        count++;
    return count;
}

struct job *job_new(uint32_t stream, uint32_t kind)
{
    struct job *job = calloc(1, sizeof(*job));
    if (!job)
        link_broken("no memory");
    job->stream = stream;
    job->kind = kind;
    job->terminal = job->group.fd = job->report.fd = job->input.watch.fd = -1;
    for (int channel = 0; channel < CHANNELS; channel++)
        job->outputs[channel].watch.fd = -1;
    job->next = jobs;
    jobs = job;
    if (kind != AGENT_SYNC)
        anything_ran = 1;
    return job;
}

void job_free(struct job *job)
{
    struct job **place = &jobs;
    while (*place != job)
        place = &(*place)->next;
    *place = job->next;
    input_close(job);
    for (int channel = 0; channel < CHANNELS; channel++)
        output_close(&job->outputs[channel]);
    watch_close(&job->report);
    if (job->terminal >= 0)
        close(job->terminal);
    zygote_forget(&job->handover);
    group_remove(&job->group);
    free(job);
}

static void send_ended(struct job *job)
{
    struct agent_ended ended = {job->status, group_hits(&job->group), job->user_us, job->system_us, job->max_rss_kib};
    if (job->timed_out)
        ended.flags |= AGENT_ENDED_TIMED_OUT;
    link_send(AGENT_ENDED, 0, job->stream, &ended, sizeof(ended));
}

/* What a process was to report and did not, because something ended it. */
static void take_silence(struct job *job)
{
    enum agent_step step = job->kind == AGENT_PUT ? AGENT_STEP_WRITE : AGENT_STEP_READ;
    errno = WIFSIGNALED(job->status) ? EINTR : EIO;
    job->outcome = failed(job->kind == AGENT_MOUNT ? AGENT_STEP_MOUNT : step, "");
}

/* Answer the request if there is nothing more to come. */
void job_settle(struct job *job)
{
    if (!job->exited || job->report.fd >= 0)
        return;
    int is_exec = job->kind == AGENT_EXEC;
    if (!is_exec && !job->reported)
        take_silence(job);
    if (job->kind == AGENT_SYNC && !zygote_is_settled())
        return; /* a machine that is at rest can be copied: so should be what waits in it */
    if (job->kind == AGENT_SYNC && anything_ran && jobs == job && !job->next)
        anything_ran = is_anybody_there(); /* else each copy would look for what its original had run */
    if (job->outcome.step == 0)
        for (int channel = 0; channel < CHANNELS; channel++)
            if (job->outputs[channel].watch.fd >= 0)
                return;
    if (is_exec && job->outcome.step == 0)
        send_ended(job);
    else
        link_send_outcome(job->stream, &job->outcome);
    job_free(job);
}

void job_begin(struct job *job)
{
    job->started = 1;
    if (job->kind == AGENT_EXEC) {
        uint32_t pid = (uint32_t)job->pid;
        link_send(AGENT_STARTED, 0, job->stream, &pid, sizeof(pid));
        if (job->timeout.after_ms)
            job->timeout_at = now_ms() + job->timeout.after_ms;
    }
    input_start(job);
    for (int channel = 0; channel < CHANNELS; channel++)
        output_start(&job->outputs[channel]);
}

/* A program's pipe closes when it has started, or carries why it has not; another child tells its outcome. */
static void report_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    struct job *job = OWNER_OF(watch, struct job, report);
    ssize_t got;
    do
        got = read(watch->fd, &job->outcome, sizeof(job->outcome));
    while (got < 0 && errno == EINTR);
    watch_close(watch);
    job->reported = got == (ssize_t)sizeof(job->outcome);
    if (!job->reported)
        job->outcome = SUCCESS;
    if (job->kind == AGENT_EXEC && !job->reported)
        job_begin(job);
    job_settle(job);
}

int job_watch_report(struct job *job, int fd)
{
    job->report = (struct watch){fd, report_ready};
    return watch_add(&job->report, EPOLLIN);
}

static uint64_t microseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_usec;
}

static struct job *job_of_process(pid_t pid)
{
    for (struct job *job = jobs; job; job = job->next)
        if (job->pid == pid)
            return job;
    struct process process;
    if (process_look(pid, &process) == 0 && process.session > 0)
        for (struct job *job = jobs; job; job = job->next)
            if (job->pid == process.session)
                return job;
    return NULL;
}

/* Every process without a parent is ours. It is looked at before it is reaped: then it still has its session. */
void jobs_reap(void)
{
    siginfo_t info = {0};
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0) {
        pid_t pid = info.si_pid;
        info.si_pid = 0;
        struct job *job = job_of_process(pid);
        struct rusage usage;
        int status;
        if (wait4(pid, &status, WNOHANG, &usage) != pid)
            break;
        if (zygote_reaped(pid) || !job)
            continue;
        job->user_us += microseconds(usage.ru_utime);
        job->system_us += microseconds(usage.ru_stime);
        if ((uint64_t)usage.ru_maxrss > job->max_rss_kib)
            job->max_rss_kib = (uint64_t)usage.ru_maxrss;
        if (job->pid == pid && !job->exited) {
            job->exited = 1;
            job->status = status;
            job->linger_at = now_ms() + LINGER_MS;
            job_settle(job);
        }
    }
    groups_sweep();
}

void job_signal(struct job *job, int number)
{
    if (job->pid == 0)
        return;
    if (group_signal(&job->group, number) < 0)
        signal_session(job->pid, number);
}

static void time_out(struct job *job)
{
    job_signal(job, job->timed_out ? SIGKILL : (int)job->timeout.signal);
    job->timeout_at = job->timed_out ? 0 : now_ms() + job->timeout.grace_ms;
    job->timed_out = 1;
}

void jobs_tick(void)
{
    int64_t now = now_ms();
    zygote_tick(now);
    for (struct job *job = jobs; job; job = job->next) {
        if (job->timeout_at && now >= job->timeout_at && !job->exited)
            time_out(job);
        if (job->linger_at && now >= job->linger_at) {
            job->linger_at = 0;
            for (int channel = 0; channel < CHANNELS; channel++)
                output_linger(&job->outputs[channel]);
        }
    }
}

int64_t jobs_deadline(void)
{
    int64_t now = now_ms(), next = zygote_deadline() ? zygote_deadline() - now : -1;
    next = zygote_deadline() && next < 0 ? 0 : next;
    for (struct job *job = jobs; job; job = job->next) {
        int64_t times[] = {job->linger_at, job->exited ? 0 : job->timeout_at};
        for (size_t i = 0; i < 2; i++)
            if (times[i] && (next < 0 || times[i] - now < next))
                next = times[i] > now ? times[i] - now : 0;
    }
    return next;
}

/* Whatever runs here was started over the connection that is gone. */
void jobs_reset(void)
{
    if (anything_ran)
        signal_every(SIGKILL);
    anything_ran = 0;
    while (jobs)
        job_free(jobs);
}
