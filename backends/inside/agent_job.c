/* The requests that live for a while, from the start of their process to the answer after its end. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

struct job *jobs;
static int anything_ran; /* over this connection, and may still be there */
static int more_ended;   /* than were reaped */
static int64_t kill_at;  /* not before this is looked again for what is left of the killed */

enum { MAX_REAPED = 64 }; /* at once: who forks without end must not keep us from hearing the host */
enum { DIES_MS = 10000, LONGEST_MS = 500 }; /* what was killed has this long to be gone; we may have stood still */
enum { REAPS_MS = 20, EVERYBODY_MS = 2000 };

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
    job->mark = mark_new();
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
    if (!job->exited || job->left || job->report.fd >= 0)
        return;
    int is_exec = job->kind == AGENT_EXEC;
    if (!is_exec && !job->reported)
        take_silence(job);
    if (job->kind == AGENT_SYNC && !zygote_is_settled(job))
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
        if (job->pid == pid && !job->exited)
            return job;
    struct mark mark;
    if (mark_read(pid, &mark) == 0)
        for (struct job *job = jobs; job; job = job->next)
            if (mark_may_be(&mark, job->mark))
                return job;
    return NULL;
}

/* Every process without a parent is ours. It is looked at before it is reaped: then it still has its mark. */
void jobs_reap(void)
{
    siginfo_t info = {0};
    int count = 0;
    more_ended = 0;
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0) {
        if (count++ == MAX_REAPED) {
            more_ended = 1;
            break;
        }
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
            if (job->expired)
                job_signal(job, SIGKILL);
            job_settle(job);
        }
    }
    groups_sweep();
}

/* One that waits for the zygote has nothing that could be killed, and is not to begin. */
static void give_up(struct job *job)
{
    errno = EINTR;
    struct outcome outcome = failed(AGENT_STEP_ZYGOTE, "");
    link_send_outcome(job->stream, &outcome);
    job_free(job);
}

void job_signal(struct job *job, int number)
{
    int grouped = group_signal(&job->group, number) == 0;
    if (number != SIGKILL) {
        if (job->pid && !grouped)
            signal_processes(job, number);
    } else if (job->pid == 0) {
        give_up(job);
    } else if (!job->left) {
        job->dying_ms = 0;
        job->left = LEFT_UNSEEN;
        kill_at = 0;
    }
}

static int is_any_left(void)
{
    for (struct job *job = jobs; job; job = job->next)
        if (job->left)
            return 1;
    return 0;
}

static void reap_all(void)
{
    int64_t begun = now_ms();
    do
        jobs_reap();
    while (more_ended && now_ms() < begun + REAPS_MS);
}

/* Again and again until nothing is found of any of them; between two passes there is time for others. Whom a kill does
 * not end (who is traced, or stuck in the kernel, or faster than we are) must not hide behind us. */
static void kill_on(void)
{
    static int64_t last;
    int64_t begun = now_ms();
    if (!is_any_left() || begun < kill_at)
        return;
    reap_all();
    kill_the_dying();
    int64_t now = now_ms(), since = now - last < LONGEST_MS ? now - last : LONGEST_MS;
    last = now;
    kill_at = now + 1 + 2 * (now - begun);
    for (struct job *job = jobs, *next; job; job = next) {
        next = job->next;
        if (job->left && (job->dying_ms += since) > DIES_MS)
            link_broken("something that was killed has not ended");
        if (!job->left)
            job_settle(job);
    }
}

int signal_everybody(int number)
{
    const struct timespec moment = {0, 500000};
    int64_t give_up_at = now_ms() + EVERYBODY_MS;
    int count = signal_processes(NULL, number);
    while (number == SIGKILL && count > 0 && now_ms() < give_up_at) {
        nanosleep(&moment, NULL);
        reap_all();
        count = signal_processes(NULL, number);
    }
    return count;
}

static void time_out(struct job *job)
{
    job_signal(job, job->timed_out ? SIGKILL : (int)job->timeout.signal);
    job->timeout_at = job->timed_out ? 0 : now_ms() + job->timeout.grace_ms;
    job->timed_out = job->expired = 1;
}

void jobs_tick(void)
{
    int64_t now = now_ms();
    zygote_tick(now);
    if (more_ended)
        jobs_reap();
    for (struct job *job = jobs; job; job = job->next) {
        if (job->timeout_at && now >= job->timeout_at && !job->exited)
            time_out(job);
        if (job->linger_at && now >= job->linger_at) {
            job->linger_at = 0;
            for (int channel = 0; channel < CHANNELS; channel++)
                output_linger(&job->outputs[channel]);
        }
    }
    kill_on();
}

int64_t jobs_deadline(void)
{
    if (more_ended)
        return 0;
    int64_t now = now_ms(), next = zygote_deadline() ? zygote_deadline() - now : -1;
    next = zygote_deadline() && next < 0 ? 0 : next;
    for (struct job *job = jobs; job; job = job->next) {
        int64_t times[] = {job->linger_at, job->exited ? 0 : job->timeout_at,
                           job->left ? (kill_at > now ? kill_at : now) : 0};
        for (size_t i = 0; i < sizeof(times) / sizeof(*times); i++)
            if (times[i] && (next < 0 || times[i] - now < next))
                next = times[i] > now ? times[i] - now : 0;
    }
    return next;
}

/* Whatever runs here was started over the connection that is gone. */
void jobs_reset(void)
{
    while (jobs)
        job_free(jobs);
    if (anything_ran)
        anything_ran = signal_everybody(SIGKILL) > 0;
}
