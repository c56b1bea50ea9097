/* Descriptors that are of the gate's namespace wherever they are used. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "gate.h"

enum { TAKEN_AT_ONCE = 64, LOG_ROOM = 1 << 20, LOG_MESSAGE = 16384, ANSWER_S = 10 };

/* -1 with the errno that there was. */
static int drop(int fd)
{
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

static socklen_t read_place(const char *address, uint16_t port, struct sockaddr_storage *place)
{
    memset(place, 0, sizeof(*place));
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)place;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)place;
    if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return sizeof(*four);
    }
    memset(place, 0, sizeof(*place));
    if (inet_pton(AF_INET6, address, &six->sin6_addr) != 1)
        return 0;
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    return sizeof(*six);
}

int make_listener(const char *address, int type, uint16_t port, int backlog)
{
    struct sockaddr_storage place;
    socklen_t length = read_place(address, port, &place);
    errno = EINVAL;
    if (!length)
        return -1;
    int fd = socket(place.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0)
        return -1;
    /* With it two may have one UDP port, and the later one gets what comes. */
    if (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
        return drop(fd);
    if (place.ss_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
        return drop(fd);
    if (bind(fd, (struct sockaddr *)&place, length) < 0 || (type == SOCK_STREAM && listen(fd, backlog) < 0))
        return drop(fd);
    return fd;
}

/* Frames as they are: whoever was without offloads in a template has none here. */
int make_tap(const char *name)
{
    struct ifreq asked = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    errno = EINVAL;
    if (strlen(name) >= sizeof(asked.ifr_name))
        return -1;
    strcpy(asked.ifr_name, name);
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    return fd < 0 || ioctl(fd, TUNSETIFF, &asked) < 0 ? drop(fd) : fd;
}

static int was_accepted(int fd)
{
    char answer[1024];
    int32_t error = -EPROTO;
    if (recv(fd, answer, sizeof(answer), 0) >= (ssize_t)(NLMSG_HDRLEN + sizeof(error)))
        memcpy(&error, answer + NLMSG_HDRLEN, sizeof(error));
    errno = -error;
    return error == 0;
}

/* Each message is answered with an errno of its own. */
int open_log(const char *messages, size_t length)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER), room = LOG_ROOM;
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    for (size_t at = 0; at < length;) {
        struct nlmsghdr header = {0};
        if (length - at >= sizeof(header))
            memcpy(&header, messages + at, sizeof(header));
        errno = EINVAL;
        if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > length - at ||
            send(fd, messages + at, header.nlmsg_len, 0) < 0 || !was_accepted(fd))
            return drop(fd);
        at += NLMSG_ALIGN(header.nlmsg_len);
    }
    return fd;
}

/* Whether it is the last of the answers; `error` is then set. */
static int is_last(const char *answer, ssize_t length, int *error)
{
    struct nlmsghdr header;
    int32_t said = 0;
    for (ssize_t at = 0; length - at >= (ssize_t)sizeof(header); at += NLMSG_ALIGN((ssize_t)header.nlmsg_len)) {
        memcpy(&header, answer + at, sizeof(header));
        if (header.nlmsg_type == NLMSG_ERROR && length - at >= (ssize_t)(NLMSG_HDRLEN + sizeof(said)))
            memcpy(&said, answer + at + NLMSG_HDRLEN, sizeof(said));
        *error = -said;
        if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE || header.nlmsg_len < sizeof(header))
            return 1;
    }
    return 0;
}

int ask_netfilter(const char *request, size_t length, int output)
{
    char answer[LOG_MESSAGE];
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER), error = 0;
    if (fd < 0 || send(fd, request, length, 0) < 0)
        error = errno;
    struct timeval patience = {.tv_sec = ANSWER_S};
    if (!error && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        error = errno;
    for (int last = 0; !error && !last;) {
        ssize_t got = recv(fd, answer, sizeof(answer), 0);
        if (got <= 0 || write(output, answer, (size_t)got) != got)
            error = got < 0 ? errno : EIO;
        else
            last = is_last(answer, got, &error);
    }
    if (fd >= 0)
        close(fd);
    return error;
}

/* What was logged goes on as it came, a message at a time, with the time before it; what there is no room for is lost:
 * counters tell of it. */
void pass_log_on(int log, int sink, uint64_t *room)
{
    struct {
        struct wire_logged head;
        char messages[LOG_MESSAGE];
    } record;
    for (int count = 0; count < TAKEN_AT_ONCE; count++) {
        struct timespec now;
        ssize_t got = recv(log, record.messages, sizeof(record.messages), MSG_DONTWAIT);
        if (got <= 0)
            return;
        clock_gettime(CLOCK_REALTIME, &now);
        record.head.realtime_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        record.head.length = (uint32_t)got;
        size_t whole = sizeof(record.head) + (size_t)got;
        if (whole <= *room && write(sink, &record, whole) == (ssize_t)whole)
            *room -= whole;
    }
}

ssize_t send_descriptors(int socket_fd, const void *data, size_t length, const int *fds, size_t count, int flags)
{
    char ancillary[CMSG_SPACE(GATE_DESCRIPTORS * sizeof(int))] = {0};
    struct iovec part = {(void *)(uintptr_t)data, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        message.msg_control = ancillary;
        message.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = (socklen_t)CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(socket_fd, &message, MSG_NOSIGNAL | flags);
    while (sent < 0 && errno == EINTR);
    return sent;
}

static void answer_socket(int served, const struct wire_socket *asked)
{
    int known = (asked->family == AF_INET || asked->family == AF_INET6) &&
                (asked->type == SOCK_STREAM || asked->type == SOCK_DGRAM);
    errno = EPROTONOSUPPORT;
    int made = known ? socket((int)asked->family, (int)asked->type | SOCK_CLOEXEC, 0) : -1;
    int32_t error = made < 0 ? errno : 0;
    (void)!send_descriptors(served, &error, sizeof(error), &made, made >= 0, MSG_DONTWAIT);
    if (made >= 0)
        close(made);
}

/* -1 when the other end is closed. */
int serve_socket(int served)
{
    for (int count = 0; count < TAKEN_AT_ONCE; count++) {
        struct wire_socket asked;
        ssize_t got = recv(served, &asked, sizeof(asked), MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (got != (ssize_t)sizeof(asked))
            return -1;
        answer_socket(served, &asked);
    }
    return 0;
}
