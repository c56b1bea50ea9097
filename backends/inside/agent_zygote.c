/* The zygote, a Python interpreter that waits, and its spare: a fork of it that waits too and becomes the next
 * program. A spare is our own child, so that it is reaped like any other, and its number is known before anybody's
 * code runs in it. See zygote.py for what they are told. Of an interpreter that cannot fork there is no zygote: each
 * spare is started by us, and is told the same. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "execute.h"

enum { FIRST_DELAY_MS = 100, LAST_DELAY_MS = 60000 };
enum { QUIET_MS = 100 }; /* so long nobody has asked for anything: the next spare is in nobody's way */

static void control_ready(struct watch *watch, uint32_t events);
static void spare_ready(struct watch *watch, uint32_t events);

static struct {
    struct interpreter interpreter;
    pid_t pid; /* without a zygote: of the spare, until it becomes a program */
    struct watch control;
    int waits; /* it has imported what it was to import */
    struct watch spare;
    pid_t spare_pid; /* 0 until it has spoken */
    int spare_privileged;
    int doubted; /* names were hidden since it was started */
    int64_t busy_at; /* when there was something else to do */
    int64_t start_at, delay;
} zygote = {.control = {-1, control_ready}, .spare = {-1, spare_ready}, .delay = FIRST_DELAY_MS};

void zygote_doubt(void)
{
    zygote.doubted = 1;
}

void zygote_configure(int forks, char *const *words)
{
    if (interpreter_take(&zygote.interpreter, forks, words) == 0)
        zygote.start_at = 1;
}

uint32_t zygote_is_there(void)
{
    return zygote.interpreter.path != NULL;
}

int zygote_owns(pid_t pid)
{
    return pid == zygote.pid || pid == zygote.spare_pid;
}

static int wants_spare(void)
{
    if (zygote.spare.fd >= 0 || zygote.start_at || !zygote.interpreter.path)
        return 0;
    return zygote.interpreter.forks ? zygote.waits : zygote.pid == 0;
}

int zygote_is_settled(void)
{
    return !zygote.interpreter.path || zygote.start_at > 1 || zygote.spare_pid > 0;
}

static void settle_others(void)
{
    struct job *next;
    for (struct job *job = jobs; job; job = next) {
        next = job->next;
        if (job->kind == AGENT_SYNC)
            job_settle(job);
    }
}

/* When to try again: later each time. */
static int64_t put_off(void)
{
    int64_t delay = zygote.delay;
    zygote.delay = delay * 2 > LAST_DELAY_MS ? LAST_DELAY_MS : delay * 2;
    return now_ms() + delay;
}

static void start_zygote(void)
{
    int ends[2];
    zygote.start_at = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        zygote.start_at = put_off();
        return;
    }
    pid_t pid = fork();
    if (pid == 0)
        become_interpreter(&zygote.interpreter, ends[1], 1);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        zygote.start_at = put_off();
        return;
    }
    zygote.pid = pid;
    zygote.control.fd = ends[0];
    watch_add(&zygote.control, EPOLLIN);
}

static void control_ready(struct watch *watch, uint32_t events)
{
    char word;
    if ((events & EPOLLIN) && read(watch->fd, &word, 1) == 1) {
        zygote.waits = 1;
        zygote.delay = FIRST_DELAY_MS;
        return;
    }
    if (zygote.pid > 0)
        kill(zygote.pid, SIGKILL); /* it cannot be spoken to any more; zygote_reaped() comes next */
    watch_close(watch);
    zygote.waits = 0;
}

static int send_with(int socket, const char *word, const int *fds, size_t count)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(4 * sizeof(int))];
    } control = {.space = {0}};
    struct iovec part = {(void *)(uintptr_t)word, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space};
    message.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof(int));
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = (socklen_t)CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -1;
}

/* The spare at the other end of a socket; -1: it will not be there. */
static int summon_spare(int theirs, int privileged)
{
    if (zygote.interpreter.forks)
        return send_with(zygote.control.fd, privileged ? "P" : "F", &theirs, 1);
    zygote.pid = fork();
    if (zygote.pid == 0)
        become_interpreter(&zygote.interpreter, theirs, privileged);
    return zygote.pid < 0 ? -1 : 0;
}

static void ask_for_spare(int privileged)
{
    int ends[2], yes = 1;
    zygote.busy_at = now_ms(); /* not again at once, should it fail */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return;
    zygote.spare.fd = ends[0];
    zygote.spare_privileged = privileged;
    if (setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)) < 0 || watch_add(&zygote.spare, EPOLLIN) < 0 ||
        summon_spare(ends[1], privileged) < 0)
        watch_close(&zygote.spare);
    if (zygote.pid < 0)
        zygote.pid = 0;
    close(ends[1]);
}

static void drop_spare(void)
{
    watch_close(&zygote.spare); /* which it takes as its end */
    zygote.spare_pid = 0;
    if (zygote.interpreter.forks || zygote.pid == 0)
        return;
    kill(zygote.pid, SIGKILL); /* but not while it starts */
    zygote.pid = 0;
}

/* Its first word, which the kernel marks with its number as it is here. */
static void spare_ready(struct watch *watch, uint32_t events)
{
    char word;
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec part = {&word, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
    struct cmsghdr *head;
    (void)events;
    if (recvmsg(watch->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) == 1 && (head = CMSG_FIRSTHDR(&message)) &&
        head->cmsg_type == SCM_CREDENTIALS) {
        struct ucred sender;
        memcpy(&sender, CMSG_DATA(head), sizeof(sender));
        zygote.spare_pid = sender.pid;
        zygote.delay = FIRST_DELAY_MS;
        settle_others();
        return;
    }
    watch_close(watch);
    zygote.spare_pid = 0;
    if (!zygote.interpreter.forks && zygote.pid > 0)
        kill(zygote.pid, SIGKILL); /* zygote_reaped() comes next */
}

void zygote_forget(struct handover *handover)
{
    if (!handover->waits)
        return;
    handover->waits = 0;
    close(handover->source);
    close_streams(handover->streams);
}

/* The time that its process has taken so far, to be the program of a job, is not the program's. */
static void forgive(struct job *job)
{
    uint64_t user, system;
    if (process_times(job->pid, &user, &system) < 0)
        return;
    job->user_us -= user; /* what is added at its end is at least as much */
    job->system_us -= system;
}

static void hand_over(struct job *job)
{
    struct handover *handover = &job->handover;
    int fds[] = {handover->source, handover->streams[0], handover->streams[1], handover->streams[2]};
    int spare = watch_release(&zygote.spare);
    job->pid = zygote.spare_pid;
    zygote.spare_pid = 0;
    if (!zygote.interpreter.forks) {
        zygote.pid = 0;
        forgive(job); /* a fork begins with nothing */
    }
    struct outcome outcome = SUCCESS;
    if (group_enter(&job->group, job->pid) < 0)
        outcome = failed(AGENT_STEP_CGROUP, job->group.name);
    else if (mark_put(job->pid, job->mark) < 0)
        outcome = failed(AGENT_STEP_RLIMIT, "");
    else if (send_with(spare, "R", fds, 4) < 0 || job_watch_report(job, spare) < 0)
        outcome = failed(AGENT_STEP_ZYGOTE, "");
    zygote_forget(handover);
    if (outcome.step == 0)
        return;
    if (job->report.fd < 0)
        close(spare);
    link_send_outcome(job->stream, &outcome);
    job_free(job);
}

/* The one that waits for the longest time: the last of the list. */
static struct job *next_job(void)
{
    struct job *next = NULL;
    for (struct job *job = jobs; job; job = job->next)
        if (job->handover.waits)
            next = job;
    return next;
}

static int somebody_syncs(void)
{
    for (struct job *job = jobs; job; job = job->next)
        if (job->kind == AGENT_SYNC)
            return 1;
    return 0;
}

/* Somebody waits for a spare now. */
static int is_urgent(void)
{
    return next_job() || somebody_syncs();
}

int64_t zygote_deadline(void)
{
    if (zygote.start_at)
        return zygote.start_at;
    return wants_spare() && (!jobs || is_urgent()) ? zygote.busy_at + QUIET_MS : 0;
}

void zygote_tick(int64_t now)
{
    if (jobs)
        zygote.busy_at = now;
    if (zygote.start_at && now >= zygote.start_at) {
        if (zygote.interpreter.forks)
            start_zygote();
        else
            zygote.start_at = 0;
    }
    struct job *job = next_job();
    if (job && zygote.spare_pid && zygote.spare_privileged != job->handover.privileged)
        drop_spare();
    if (job && zygote.spare_pid) {
        hand_over(job);
        job = next_job();
    }
    if (wants_spare() && now >= zygote.busy_at + (is_urgent() ? 0 : QUIET_MS))
        ask_for_spare(job && job->handover.privileged);
}

static void fail_waiting(void)
{
    for (struct job *job; (job = next_job());) {
        errno = ECHILD;
        struct outcome outcome = failed(AGENT_STEP_ZYGOTE, zygote.interpreter.path);
        link_send_outcome(job->stream, &outcome);
        job_free(job);
    }
}

int zygote_reaped(pid_t pid)
{
    if (pid != zygote.pid) {
        if (pid == zygote.spare_pid)
            drop_spare();
        return 0;
    }
    zygote.pid = 0;
    zygote.waits = 0;
    watch_close(&zygote.control);
    if (!zygote.interpreter.forks)
        drop_spare();
    fail_waiting();
    settle_others();
    zygote.start_at = put_off();
    return 1;
}

static int keep_message(const char *message, size_t size)
{
    int fd = memfd_create("request", MFD_CLOEXEC);
    for (size_t done = 0; fd >= 0 && done < size;) {
        ssize_t put = write(fd, message + done, size - done);
        if (put <= 0) {
            close(fd);
            return -1;
        }
        done += (size_t)put;
    }
    return fd;
}

struct outcome zygote_start(struct job *job, const struct request *request, const char *message, size_t size)
{
    struct handover *handover = &job->handover;
    errno = ENOENT;
    if (!zygote.interpreter.path)
        return failed(AGENT_STEP_ZYGOTE, "");
    errno = ECHILD;
    if (zygote.pid == 0 && zygote.start_at > 1)
        return failed(AGENT_STEP_ZYGOTE, zygote.interpreter.path);
    if (zygote.doubted && access(zygote.interpreter.path, X_OK) < 0)
        return failed(AGENT_STEP_ZYGOTE, zygote.interpreter.path); /* whose file a fork of it could still read */
    int source = keep_message(message, size);
    if (source < 0)
        return failed(AGENT_STEP_ZYGOTE, "");
    struct outcome outcome = make_streams(job, request, handover->streams);
    if (outcome.step) {
        close(source);
        return outcome;
    }
    handover->source = source;
    handover->waits = 1;
    handover->privileged = request->count[AGENT_TAG_PRIVILEGED] > 0;
    return SUCCESS;
}
