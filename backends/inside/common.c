#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

void send_message(int control, const struct wire_message *message)
{
    while (send(control, message, sizeof(*message), MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

/* Data left unread when a socket closes reaches its peer as ECONNRESET, ahead of what was sent before. */
void end_messages(int control)
{
    struct wire_message unread;
    shutdown(control, SHUT_RD);
    while (recv(control, &unread, sizeof(unread), MSG_DONTWAIT) > 0)
        ;
}

void report_failure(int control, struct failure failure)
{
    struct wire_message message = {
        .kind = KIND_FAILED, .value = (int32_t)failure.step, .error = failure.error, .index = failure.index};
    if (control >= 0) {
        send_message(control, &message);
        end_messages(control);
        return;
    }
    dprintf(STDERR_FILENO, "launcher: step %d, index %u: %s\n", (int)failure.step, failure.index,
            strerror(failure.error));
}

int exit_code_of(struct failure failure)
{
    if (failure.step != STEP_EXEC)
        return EXIT_SETUP_FAILED;
    return failure.error == ENOENT || failure.error == ENOTDIR ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
}

static int ascending(const void *left, const void *right)
{
    int a = *(const int *)left, b = *(const int *)right;
    return (a > b) - (a < b);
}

/* Close (or, by flag, close on exec) everything from 3 up that is not in `keep`, which gets sorted. */
struct failure keep_descriptors(int *keep, size_t count, unsigned int close_range_flags)
{
    qsort(keep, count, sizeof(*keep), ascending);
    unsigned int next = STDERR_FILENO + 1;
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            return FAILED(STEP_DESCRIPTORS, fd); /* else the next thing opened would pass for a stream */
    for (size_t i = 0; i < count; i++) {
        if (fcntl(keep[i], F_GETFD) < 0)
            return FAILED(STEP_DESCRIPTORS, keep[i]);
        unsigned int fd = (unsigned int)keep[i];
        if (fd > next && syscall(SYS_close_range, next, fd - 1, close_range_flags) < 0)
            return FAILED(STEP_DESCRIPTORS, next);
        if (fd >= next)
            next = fd + 1;
    }
    if (syscall(SYS_close_range, next, UINT_MAX, close_range_flags) < 0)
        return FAILED(STEP_DESCRIPTORS, next);
    return NO_FAILURE;
}
