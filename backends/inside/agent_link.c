/* The connection: frames of the host are taken apart, ours go out, those that say something before those that
 * carry output. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent.h"

enum { MAX_WAITING = 1 << 18, PIECES_AT_ONCE = 8 };

static struct {
    struct watch watch;
    int is_socket;
    int greeted;
    int away; /* the host's side of the port is closed */
    uint32_t events;
    char *waiting; /* frames that say something */
    size_t waiting_start, waiting_end, waiting_room;
    struct piece piece; /* the one frame of output that is on its way */
    struct decoder decoder;
} host;

void link_broken(const char *why)
{
    if (!host.is_socket) {
        dprintf(STDERR_FILENO, "agent: %s: the machine is switched off\n", why);
        power_off();
    }
    _exit(1);
}

static void listen_for(uint32_t events)
{
    if (events == host.events)
        return;
    host.events = events;
    watch_change(&host.watch, events);
}

/* Until the host's side is open again a port is always readable: only its changes are of interest. What is half
 * read or half written belongs to a connection that is gone. The kernel may hand out the first bytes of the next
 * connection before it says that the port is open: then nothing but being writable tells that it is. */
static void go_away(void)
{
    if (host.is_socket)
        _exit(0);
    if (!host.away) {
        host.away = 1;
        host.greeted = 0;
        host.decoder.start = host.decoder.end = 0;
        host.waiting_start = host.waiting_end = 0;
        piece_drop(&host.piece);
        forget_messages();
        jobs_reset();
    }
    listen_for(EPOLLIN | EPOLLOUT | EPOLLET);
}

/* What is still on its way goes out before the welcome, for frames must stay whole: the host passes over it. */
static void greet(const struct frame *frame)
{
    struct agent_hello hello;
    memcpy(&hello, frame->payload, sizeof(hello));
    if (hello.magic != AGENT_MAGIC)
        link_broken("the host speaks something else");
    forget_messages();
    jobs_reset();
    zygote_greeted();
    host.greeted = 1;
    struct agent_welcome welcome = {AGENT_MAGIC, AGENT_VERSION, boot_us(), zygote_is_there()};
    link_send(AGENT_WELCOME, 0, frame->stream, &welcome, sizeof(welcome));
}

static void take_frames(void)
{
    struct frame frame;
    int got;
    while ((got = decoder_next(&host.decoder, &frame)) == 1) {
        if (frame.kind == AGENT_HELLO)
            greet(&frame);
        else if (host.greeted)
            dispatch(&frame);
        else
            link_broken("the host did not greet");
    }
    if (got < 0)
        link_broken("the host sent what is no frame");
}

/* A port hands out at most one page at a time: until there is a whole frame's worth. 0: the other side is closed. */
static int fill_decoder(int fd)
{
    size_t room;
    char *bytes = decoder_space(&host.decoder, &room);
    room = room < AGENT_MAX_FRAME ? room : AGENT_MAX_FRAME;
    while (room > 0) {
        ssize_t got = read(fd, bytes, room);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0)
            return 0;
        host.decoder.end += (size_t)got;
        bytes += got;
        room -= (size_t)got;
    }
    return 1;
}

static void take(struct watch *watch, uint32_t events)
{
    if (events == EPOLLOUT && !host.away)
        return; /* link_flush() comes next */
    int open = fill_decoder(watch->fd);
    if (host.decoder.end > host.decoder.start)
        take_frames();
    if (!open) {
        go_away();
        return;
    }
    host.away = 0;
    if (host.events & EPOLLET)
        listen_for(EPOLLIN);
}

int link_is_socket(void)
{
    return host.is_socket;
}

void link_open(int fd, int is_socket)
{
    host.is_socket = is_socket;
    if (piece_init(&host.piece) < 0)
        link_broken("no pipe");
    host.watch = (struct watch){fd, take};
    host.events = EPOLLIN;
    if (watch_add(&host.watch, EPOLLIN) < 0)
        link_broken("the connection cannot be watched");
}

static char *make_room(size_t length)
{
    if (host.waiting_start == host.waiting_end)
        host.waiting_start = host.waiting_end = 0;
    if (host.waiting_end + length > host.waiting_room) {
        size_t room = 2 * (host.waiting_end + length);
        host.waiting = realloc(host.waiting, room);
        if (!host.waiting)
            link_broken("no memory");
        host.waiting_room = room;
    }
    char *place = host.waiting + host.waiting_end;
    host.waiting_end += length;
    return place;
}

void link_send(enum agent_kind kind, uint32_t flags, uint32_t stream, const void *payload, size_t length)
{
    struct agent_frame head = {(uint32_t)length, (uint16_t)kind, (uint16_t)flags, stream};
    char *place = make_room(sizeof(head) + length);
    memcpy(place, &head, sizeof(head));
    if (length > 0)
        memcpy(place + sizeof(head), payload, length);
}

void link_send_outcome(uint32_t stream, const struct outcome *outcome)
{
    if (outcome->step == 0) {
        struct agent_done done = {outcome->bytes, outcome->entries};
        link_send(AGENT_DONE, 0, stream, &done, sizeof(done));
        return;
    }
    char payload[sizeof(struct agent_failed) + sizeof(outcome->subject)];
    struct agent_failed head = {outcome->step, outcome->error};
    size_t length = strnlen(outcome->subject, sizeof(outcome->subject));
    memcpy(payload, &head, sizeof(head));
    memcpy(payload + sizeof(head), outcome->subject, length);
    link_send(AGENT_FAILED, 0, stream, payload, sizeof(head) + length);
}

/* 1 when all of it is out. */
static int write_out(const char *bytes, size_t *start, size_t end)
{
    while (*start < end) {
        ssize_t put = write(host.watch.fd, bytes + *start, end - *start);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno != EAGAIN && host.is_socket)
            _exit(0);
        if (put <= 0)
            return 0;
        *start += (size_t)put;
    }
    return 1;
}

/* A piece that was taken from its pipe goes first: what is said later may be that its output has ended. */
int link_flush(void)
{
    for (int pieces = 0; !host.away; pieces++) {
        if (!write_out(host.piece.bytes, &host.piece.start, host.piece.end) ||
            !piece_write(&host.piece, host.watch.fd) || !write_out(host.waiting, &host.waiting_start, host.waiting_end)) {
            int full = host.waiting_end - host.waiting_start > MAX_WAITING;
            listen_for(full ? EPOLLOUT : EPOLLIN | EPOLLOUT);
            return 0;
        }
        if (pieces == PIECES_AT_ONCE)
            return 1;
        if (!outputs_next(&host.piece) && host.waiting_start == host.waiting_end) {
            listen_for(EPOLLIN);
            return 0;
        }
    }
    return 0;
}
