/* The zygote, a Python interpreter that waits, and its spare: a fork of it that waits too and becomes the next
 * program. A spare is our own child, so that it is reaped like any other, and its number is known before anybody's
 * code runs in it. See zygote.py for what they are told. Of an interpreter that cannot fork there is no zygote: each
 * spare is started by us, and is told the same. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "execute.h"

enum { FIRST_DELAY_MS = 100, LAST_DELAY_MS = 60000 };
enum { QUIET_MS = 100 }; /* so long nobody has asked for anything: the next spare is in nobody's way */
/* Spares that are not forks are started two ahead, until a second host greets: it has a copy of this machine, where one
 * may be used up to be rid of what is slow the first time, without another being started in each of the copies. */
enum { SPARES = 2 };

static void control_ready(struct watch *watch, uint32_t events);
static void spare_ready(struct watch *watch, uint32_t events);

struct spare {
    struct watch watch;
    pid_t child; /* whom we have started to be it; 0: the zygote has */
    pid_t pid;   /* 0 until it has spoken */
    int privileged;
    int rehearses; /* once more, and is to speak again */
};

static struct {
    struct interpreter interpreter;
    pid_t pid; /* of the zygote, if it is one */
    struct watch control;
    int waits; /* it has imported what it was to import */
    struct spare spares[SPARES];
    int wanted, greeted;
    int doubted; /* names were hidden since it was started */
    int64_t busy_at; /* when there was something else to do */
    int64_t start_at, delay;
} zygote = {.control = {-1, control_ready},
            .spares = {{.watch = {-1, spare_ready}}, {.watch = {-1, spare_ready}}},
            .delay = FIRST_DELAY_MS};

void zygote_doubt(void)
{
    zygote.doubted = 1;
}

void zygote_configure(int forks, char *const *words)
{
    if (interpreter_take(&zygote.interpreter, forks, words) < 0)
        return;
    zygote.start_at = 1;
    zygote.wanted = forks ? 1 : SPARES;
}

void zygote_greeted(void)
{
    if (zygote.greeted++ > 0)
        zygote.wanted = 1;
}

uint32_t zygote_is_there(void)
{
    return zygote.interpreter.path != NULL;
}

int zygote_owns(pid_t pid)
{
    for (int i = 0; i < SPARES; i++)
        if (pid == zygote.spares[i].child || pid == zygote.spares[i].pid)
            return 1;
    return pid == zygote.pid;
}

/* The first that is READY, NOT_YET, or NONE, and of the one kind (`privileged` 1 or 0) or of any (-1). */
enum state { NONE, NOT_YET, READY };

static struct spare *find_spare(enum state state, int privileged)
{
    for (struct spare *spare = zygote.spares; spare < zygote.spares + SPARES; spare++) {
        int is_none = spare->watch.fd < 0 && spare->child == 0;
        enum state its = is_none ? NONE : spare->pid == 0 || spare->rehearses ? NOT_YET : READY;
        if (its == state && (privileged < 0 || privileged == spare->privileged))
            return spare;
    }
    return NULL;
}

static int count_spares(void)
{
    int count = 0;
    for (int i = 0; i < SPARES; i++)
        count += zygote.spares[i].pid > 0;
    return count;
}

static int wants_spare(void)
{
    if (zygote.start_at || find_spare(NOT_YET, -1) || count_spares() >= zygote.wanted)
        return 0;
    return zygote.interpreter.forks ? zygote.waits : zygote.interpreter.path != NULL;
}

/* In a copy of a machine all that they touch is new again: they do what a program does, for those that are no forks. */
static void rehearse(void)
{
    for (struct spare *spare = zygote.spares; spare < zygote.spares + SPARES; spare++)
        if (spare->pid > 0 && spare->child > 0)
            spare->rehearses = send(spare->watch.fd, "W", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

int zygote_is_settled(struct job *sync)
{
    if (!zygote.interpreter.path || zygote.start_at > 1)
        return 1;
    if (count_spares() < zygote.wanted)
        return 0;
    if (!sync->handover.rehearsed)
        rehearse();
    sync->handover.rehearsed = 1;
    for (int i = 0; i < SPARES; i++)
        if (zygote.spares[i].rehearses)
            return 0;
    return 1;
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

/* Have a spare at the other end of a socket; -1: it will not be there. */
static int summon(struct spare *spare, int theirs)
{
    if (zygote.interpreter.forks)
        return interpreter_tell(zygote.control.fd, spare->privileged ? "P" : "F", &theirs, 1);
    pid_t pid = fork();
    if (pid == 0)
        become_interpreter(&zygote.interpreter, theirs, spare->privileged);
    spare->child = pid > 0 ? pid : 0;
    return pid < 0 ? -1 : 0;
}

static void ask_for_spare(int privileged)
{
    struct spare *spare = find_spare(NONE, -1);
    int ends[2], yes = 1;
    zygote.busy_at = now_ms(); /* not again at once, should it fail */
    if (!spare || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return;
    spare->watch.fd = ends[0];
    spare->privileged = privileged;
    if (setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)) < 0 || watch_add(&spare->watch, EPOLLIN) < 0 ||
        summon(spare, ends[1]) < 0)
        watch_close(&spare->watch);
    close(ends[1]);
}

/* Its first word, which the kernel marks with its number as it is here. */
static void spare_ready(struct watch *watch, uint32_t events)
{
    struct spare *spare = OWNER_OF(watch, struct spare, watch);
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
        spare->pid = sender.pid;
        spare->rehearses = 0;
        zygote.delay = FIRST_DELAY_MS;
        settle_others();
        return;
    }
    watch_close(watch);
    spare->pid = spare->rehearses = 0;
    if (spare->child > 0)
        kill(spare->child, SIGKILL); /* zygote_reaped() comes next */
}

static void drop_spare(struct spare *spare)
{
    watch_close(&spare->watch); /* which it takes as its end */
    spare->pid = spare->child = spare->rehearses = 0;
}

void zygote_forget(struct handover *handover)
{
    if (!handover->waits)
        return;
    handover->waits = 0;
    close(handover->source);
    close_streams(handover->streams);
}

static void hand_over(struct job *job, struct spare *chosen)
{
    struct handover *handover = &job->handover;
    int fds[] = {handover->source, handover->streams[0], handover->streams[1], handover->streams[2]};
    int spare = watch_release(&chosen->watch);
    job->pid = chosen->pid;
    if (chosen->child)
        forgive_times(job); /* a fork begins with nothing */
    chosen->pid = chosen->child = 0;
    struct outcome outcome = SUCCESS;
    if (group_enter(&job->group, job->pid) < 0)
        outcome = failed(AGENT_STEP_CGROUP, job->group.name);
    else if (mark_put(job->pid, job->mark) < 0)
        outcome = failed(AGENT_STEP_RLIMIT, "");
    else if (interpreter_tell(spare, "R", fds, 4) < 0 || job_watch_report(job, spare) < 0)
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
    struct spare *spare = job ? find_spare(READY, job->handover.privileged) : NULL;
    if (spare) {
        hand_over(job, spare);
        job = next_job();
    } else if (job && !find_spare(NOT_YET, -1) && (spare = find_spare(READY, -1)))
        drop_spare(spare); /* of the other kind */
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

/* A spare that ended before it was used. 1: it was ours. */
static int spare_reaped(pid_t pid)
{
    for (struct spare *spare = zygote.spares; spare < zygote.spares + SPARES; spare++)
        if (pid == spare->child || pid == spare->pid) {
            int was_child = spare->child > 0;
            drop_spare(spare);
            return was_child;
        }
    return 0;
}

int zygote_reaped(pid_t pid)
{
    if (pid != zygote.pid && !spare_reaped(pid))
        return 0;
    zygote.pid = 0;
    zygote.waits = 0;
    watch_close(&zygote.control);
    zygote.start_at = put_off();
    if (count_spares() == 0)
        fail_waiting();
    settle_others();
    return 1;
}

struct outcome zygote_start(struct job *job, const struct request *request, const char *message, size_t size)
{
    struct handover *handover = &job->handover;
    errno = ENOENT;
    if (!zygote.interpreter.path)
        return failed(AGENT_STEP_ZYGOTE, "");
    errno = ECHILD;
    if (zygote.pid == 0 && zygote.start_at > 1 && count_spares() == 0)
        return failed(AGENT_STEP_ZYGOTE, zygote.interpreter.path);
    if (zygote.doubted && access(zygote.interpreter.path, X_OK) < 0)
        return failed(AGENT_STEP_ZYGOTE, zygote.interpreter.path); /* whose file a fork of it could still read */
    int source = interpreter_keep(message, size);
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
