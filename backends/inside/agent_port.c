/* A child that is no program but a way: from its standard streams to a port of the loopback that it is on. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

enum { ROOM = 65536 };

/* One direction. When `from` is at its end (-1), what is held still goes out; then `to` is told, and is -1. */
struct way {
    int from, to;
    size_t start, end;
    char held[ROOM];
};

static struct way there, back;

static int try_to_connect(const struct sockaddr *address, socklen_t length)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, address, length) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static int connect_port(uint16_t port)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = try_to_connect((struct sockaddr *)&four, sizeof(four)), error = errno, on = 1;
    if (fd < 0)
        fd = try_to_connect((struct sockaddr *)&six, sizeof(six));
    if (fd < 0)
        errno = error;
    else
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

/* A socket is told that nothing more comes; of a stream that is what its end says. */
static void end_way(struct way *way, int is_socket)
{
    if (is_socket)
        shutdown(way->to, SHUT_WR);
    else {
        close(STDOUT_FILENO);
        close(STDERR_FILENO);
    }
    way->from = way->to = -1;
}

static int would_wait(void)
{
    return errno == EAGAIN || errno == EINTR;
}

static void take_in(struct way *way)
{
    ssize_t got = read(way->from, way->held, ROOM);
    if (got > 0) {
        way->start = 0;
        way->end = (size_t)got;
    } else if (got == 0 || !would_wait())
        way->from = -1;
}

static void let_out(struct way *way)
{
    ssize_t put = write(way->to, way->held + way->start, way->end - way->start);
    if (put > 0)
        way->start += (size_t)put;
    else if (!would_wait()) { /* nobody takes it any more */
        way->start = way->end;
        way->from = -1;
    }
}

static struct pollfd wanted(const struct way *way)
{
    int holds = way->start < way->end;
    return (struct pollfd){holds ? way->to : way->from, holds ? POLLOUT : POLLIN, 0};
}

static void move(struct way *way, int is_socket, short happened)
{
    if (way->to < 0)
        return;
    if (happened && way->start < way->end)
        let_out(way);
    else if (happened && way->from >= 0)
        take_in(way);
    if (way->from < 0 && way->start == way->end)
        end_way(way, is_socket);
}

struct outcome pass_port(uint16_t port, int report)
{
    int fd = connect_port(port);
    if (fd < 0)
        return failed(AGENT_STEP_CONNECT, "");
    signal(SIGPIPE, SIG_IGN);
    for (int each = STDIN_FILENO; each <= STDOUT_FILENO; each++)
        fcntl(each, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    there = (struct way){.from = STDIN_FILENO, .to = fd};
    back = (struct way){.from = fd, .to = STDOUT_FILENO};
    close(report); /* it has begun */
    while (there.to >= 0 || back.to >= 0) {
        struct pollfd events[] = {wanted(&there), wanted(&back), {back.to, 0, 0}};
        if (poll(events, 3, -1) < 0 && errno != EINTR)
            break;
        move(&there, 1, events[0].revents);
        move(&back, 0, events[1].revents);
        if (back.to >= 0 && (events[2].revents & POLLERR)) /* nobody reads: the other side is to know */
            break;
    }
    _exit(0);
}
