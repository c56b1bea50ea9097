/* The agent: process 1 of a virtual machine, or (`agent --container`) of a container in it, or (`agent FD …`, a
 * connected stream socket) the first of a sandbox.
 * What it does is said in agent_protocol.py. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "execute.h"

#ifndef MXC_KEY
#error "MXC_KEY, the hash of the sources, is given by build.py"
#endif

/* A request that comes in several frames, until its last one. */
struct message {
    struct message *next;
    uint32_t stream, kind;
    size_t size;
    char *bytes;
};

static struct message *messages;
static struct watch children;
static uint64_t ready_us;

struct outcome failed(enum agent_step step, const char *subject)
{
    struct outcome outcome = {.step = step, .error = errno};
    snprintf(outcome.subject, sizeof(outcome.subject), "%s", subject);
    return outcome;
}

uint64_t boot_us(void)
{
    return ready_us;
}

static void message_free(struct message *message)
{
    struct message **place = &messages;
    while (*place != message)
        place = &(*place)->next;
    *place = message->next;
    free(message->bytes);
    free(message);
}

void forget_messages(void)
{
    while (messages)
        message_free(messages);
}

static struct message *message_of(uint32_t stream, uint32_t kind)
{
    int count = job_count();
    for (struct message *message = messages; message; message = message->next, count++)
        if (message->stream == stream)
            return message;
    if (count >= AGENT_MAX_STREAMS)
        return NULL;
    struct message *message = calloc(1, sizeof(*message));
    if (!message)
        link_broken("no memory");
    *message = (struct message){messages, stream, kind, 0, NULL};
    messages = message;
    return message;
}

static void begin(uint32_t kind, uint32_t stream, char *bytes, size_t size)
{
    if (kind == AGENT_EXEC)
        start_exec(stream, bytes, size);
    else if (kind == AGENT_CONTAINER)
        start_container(stream, bytes, size);
    else
        start_task(kind, stream, bytes, size);
}

static void take_message(const struct frame *frame)
{
    if (job_find(frame->stream))
        link_broken("the host used a stream twice");
    struct message *message = message_of(frame->stream, frame->kind);
    if (!message) {
        errno = EAGAIN;
        struct outcome outcome = failed(AGENT_STEP_STREAMS, "");
        link_send_outcome(frame->stream, &outcome);
        return;
    }
    if (message->kind != frame->kind || message->size + frame->length > AGENT_MAX_MESSAGE)
        link_broken("the host sent a message that is none");
    message->bytes = realloc(message->bytes, message->size + frame->length + 1);
    if (!message->bytes)
        link_broken("no memory");
    memcpy(message->bytes + message->size, frame->payload, frame->length);
    message->size += frame->length;
    if (frame->flags & AGENT_FLAG_MORE)
        return;
    begin(frame->kind, frame->stream, message->bytes, message->size);
    message_free(message);
}

static uint32_t number_in(const struct frame *frame)
{
    uint32_t number;
    memcpy(&number, frame->payload, sizeof(number));
    return number;
}

/* What is about a stream that has ended meanwhile is passed over. */
static void take_for_job(const struct frame *frame)
{
    struct job *job = job_find(frame->stream);
    if (!job)
        return;
    struct agent_size size;
    struct winsize window = {0};
    switch (frame->kind) {
    case AGENT_INPUT:
        if (input_take(job, frame->payload, frame->length) < 0)
            link_broken("the host sent more input than it has credit for");
        break;
    case AGENT_INPUT_END:
        input_end(job);
        break;
    case AGENT_CREDIT:
        output_credit(job, frame->flags, number_in(frame));
        break;
    case AGENT_OUTPUT_CLOSED:
        output_refuse(job, frame->flags);
        break;
    case AGENT_RESIZE:
        memcpy(&size, frame->payload, sizeof(size));
        window.ws_row = size.rows;
        window.ws_col = size.columns;
        if (job->terminal >= 0)
            ioctl(job->terminal, TIOCSWINSZ, &window);
        break;
    default:
        job->expired |= (frame->flags & AGENT_FLAG_LAST) != 0;
        job_signal(job, job->expired && job->exited ? SIGKILL : (int)number_in(frame));
        break;
    }
}

void dispatch(const struct frame *frame)
{
    struct outcome outcome;
    switch (frame->kind) {
    case AGENT_PING:
        link_send(AGENT_PONG, 0, frame->stream, frame->payload, frame->length);
        break;
    case AGENT_IDENTITY:
        errno = EPERM; /* a sandbox shares clock and random numbers with its host */
        outcome = link_is_socket() ? failed(AGENT_STEP_CLOCK, "") : take_identity(frame->payload, frame->length);
        link_send_outcome(frame->stream, &outcome);
        break;
    case AGENT_NETWORK:
        errno = EPERM; /* a sandbox's network is made by its host, and not its own */
        outcome = link_is_socket() ? failed(AGENT_STEP_NETWORK, "") : take_network(frame->payload, frame->length);
        link_send_outcome(frame->stream, &outcome);
        break;
    case AGENT_REPORT:
        send_report(frame->stream);
        break;
    case AGENT_POWER_OFF:
        if (link_is_socket())
            _exit(0); /* and with process 1 everything that runs here */
        power_off();
    case AGENT_EXEC:
    case AGENT_PUT:
    case AGENT_GET:
    case AGENT_MOUNT:
    case AGENT_HIDE:
    case AGENT_CONTAINER:
    case AGENT_SYNC:
        take_message(frame);
        break;
    default:
        if (frame->kind == AGENT_SIGNAL && (frame->flags & AGENT_FLAG_EVERY))
            signal_everybody((int)number_in(frame));
        else
            take_for_job(frame);
        break;
    }
}

/* Some at a time: whoever sends us signals without end must not keep us from hearing the host. */
static void children_ready(struct watch *watch, uint32_t events)
{
    struct signalfd_siginfo infos[64];
    (void)events;
    (void)!read(watch->fd, infos, sizeof(infos));
    jobs_reap();
}

static _Noreturn void serve(int fd, int is_socket)
{
    sigset_t all;
    reset_signals();
    child_prepare();
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    umask(022);
    groups_open(held_groups(), !is_socket);
    if (!is_socket)
        containers_prepare(); /* what is missing then is made, or found missing, for the first */
    loop_init();
    children = (struct watch){signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK), children_ready};
    if (children.fd < 0 || watch_add(&children, EPOLLIN) < 0)
        link_broken("no signals");
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    ready_us = (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000;
    link_open(fd, is_socket);
    loop_run();
}

static int parse_fd(const char *text)
{
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    return errno || *end || end == text || fd < 3 || fd > INT_MAX ? -1 : (int)fd;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return puts(MXC_KEY) < 0;
    if (argc == 2 && getpid() == 1 && strcmp(argv[1], "--container") == 0)
        serve(live_in_container(), 1);
    int forks = argc > 3 && strcmp(argv[2], "zygote") == 0, starts = argc > 3 && strcmp(argv[2], "spare") == 0;
    int fd = argc == 2 || forks || starts ? parse_fd(argv[1]) : -1;
    if (fd >= 0 && argc > 3)
        zygote_configure(forks, argv + 3);
    /* What loses its parent is ours, as it would be process 1's. */
    if (fd >= 0 && (getpid() == 1 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0))
        serve(fd, 1);
    if (getpid() == 1)
        serve(boot(), 0);
    fputs("usage: agent [FD [zygote|spare [NAME=VALUE…] INTERPRETER WORD…]] | --version; as process 1 without FD\n", stderr);
    return 1;
}
