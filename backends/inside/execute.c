#define _GNU_SOURCE
#include "execute.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

void reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int number = 1; number <= SIGRTMAX; number++)
        sigaction(number, &action, NULL); /* refused for KILL, STOP and libc's own: those are default anyway */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

int set_limit(uint32_t resource, uint64_t soft, uint64_t hard)
{
    struct rlimit64 limit = {soft, hard};
    return (int)syscall(SYS_prlimit64, 0, resource, &limit, NULL);
}

int install_filter(const unsigned char *program, size_t bytes)
{
    size_t count = bytes / sizeof(struct sock_filter);
    struct sock_filter *instructions = calloc(count, sizeof(*instructions));
    if (!instructions)
        return -1;
    memcpy(instructions, program, bytes);
    struct sock_fprog filter = {(unsigned short)count, instructions};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter);
}

static const char *path_of(char **env)
{
    for (; *env; env++)
        if (strncmp(*env, "PATH=", 5) == 0)
            return *env + 5;
    return DEFAULT_PATH;
}

/* The lookup of execvp(3), in the program's own PATH; one that may not be run is reported as that. */
static void execute_from_path(char **argv, char **env)
{
    const char *path = path_of(env);
    size_t name_length = strlen(argv[0]);
    char *candidate = malloc(strlen(path) + name_length + 2);
    if (!candidate)
        return;
    int error = ENOENT;
    for (const char *start = path;; start++) {
        size_t length = strcspn(start, ":");
        memcpy(candidate, start, length);
        candidate[length] = '/';
        memcpy(candidate + length + (length > 0), argv[0], name_length + 1);
        execve(candidate, argv, env);
        if (errno == EACCES)
            error = EACCES;
        else if (errno != ENOENT && errno != ENOTDIR)
            return;
        start += length;
        if (*start == '\0')
            break;
    }
    errno = error;
}

void execute(char **argv, char **env)
{
    if (argv[0][0] == '\0')
        errno = ENOENT;
    else if (strchr(argv[0], '/'))
        execve(argv[0], argv, env);
    else
        execute_from_path(argv, env);
}
