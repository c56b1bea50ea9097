/* The interpreter that waits in a guest: what it is started with, and what it is told. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "execute.h"

static const char *const USUAL[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/root"};
enum { USUALLY = sizeof(USUAL) / sizeof(*USUAL) };

/* Whoever gives the words keeps them. */
int interpreter_take(struct interpreter *interpreter, int forks, char *const *words)
{
    size_t variables = 0, count = 0;
    while (words[count])
        count++;
    while (words[variables] && words[variables][0] != '/' && strchr(words[variables], '='))
        variables++;
    if (variables == count || count > INTERPRETER_WORDS) {
        errno = EINVAL;
        return -1;
    }
    memcpy(interpreter->environment, USUAL, sizeof(USUAL));
    memcpy(interpreter->environment + USUALLY, words, variables * sizeof(*words));
    memcpy(interpreter->arguments, words + variables, (count - variables) * sizeof(*words));
    interpreter->count = count - variables;
    interpreter->path = interpreter->arguments[0];
    interpreter->forks = forks;
    return 0;
}

/* What it may never get it gives up before its first thread begins. */
_Noreturn void become_interpreter(const struct interpreter *interpreter, int control, int privileged)
{
    struct interpreter its = *interpreter;
    char number[16];
    snprintf(number, sizeof(number), "%d", control);
    its.arguments[its.count] = number;
    int null = open("/dev/null", O_RDWR);
    reset_signals();
    restore_limits();
    if (setsid() > 0 && null >= 0 && dup2(null, STDIN_FILENO) == STDIN_FILENO && keep_only(control, STDERR_FILENO + 1) == 0 &&
        fcntl(control, F_SETFD, 0) == 0 && (privileged || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0))
        execve(its.path, its.arguments, its.environment);
    _exit(127);
}

int interpreter_tell(int socket, const char *word, const int *fds, size_t count)
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

int interpreter_keep(const char *message, size_t size)
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
