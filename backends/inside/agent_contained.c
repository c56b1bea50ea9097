/* Process 1 of a container: the agent as everywhere, but for what it holds open that has no name where it is. Nobody
 * there can look into it: it is not dumpable, ptrace(2). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "agent.h"
#include "agent_below.h"

#define DEVICES "/dev/"

enum { OUT_OF_THE_WAY = 64, NOBODYS_GROUP = 65533, SETS_CLOSE_ON_EXEC = 4 /* CLOSE_RANGE_CLOEXEC, which not every libc has */ };

static int contained;

void become_agent(int devices, int private, int groups, int link, int program, int report)
{
    int held[] = {devices, private, groups, link};
    char name[] = "agent", option[] = "--container";
    char *argv[] = {name, option, NULL}, *env[] = {NULL};
    for (int i = 0; i < FIRST_FREE - HELD_DEVICES; i++)
        if ((held[i] = fcntl(held[i], F_DUPFD_CLOEXEC, OUT_OF_THE_WAY)) < 0)
            return;
    program = fcntl(program, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
    for (int i = 0; i < FIRST_FREE - HELD_DEVICES; i++)
        if (report == HELD_DEVICES + i && (report = fcntl(report, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY)) < 0)
            return;
    for (int i = 0; i < FIRST_FREE - HELD_DEVICES; i++)
        if (dup2(held[i], HELD_DEVICES + i) < 0)
            return;
    if (program < 0 || syscall(SYS_close_range, FIRST_FREE, UINT_MAX, SETS_CLOSE_ON_EXEC) < 0)
        return;
    syscall(SYS_execveat, program, "", argv, env, AT_EMPTY_PATH);
}

int live_in_container(void)
{
    contained = 1;
    for (int held = HELD_DEVICES; held < FIRST_FREE; held++)
        fcntl(held, F_SETFD, FD_CLOEXEC);
    /* An image's root is of our user: only who is of all our groups, too, may change our limits, prlimit(2). */
    if (setresgid((gid_t)-1, (gid_t)-1, NOBODYS_GROUP) < 0)
        _exit(EXIT_FAILURE);
    keep_private_in(HELD_PRIVATE);
    return HELD_LINK;
}

int held_groups(void)
{
    return contained ? HELD_GROUPS : -1;
}

int first_of_none(void)
{
    return contained ? HELD_GROUPS : STDERR_FILENO + 1;
}

const char *device_path(const char *device)
{
    static char path[64];
    if (!contained || strncmp(device, DEVICES, strlen(DEVICES)) != 0)
        return device;
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", HELD_DEVICES, device + strlen(DEVICES));
    return path;
}

void private_path(const char *name, char *path, size_t room)
{
    if (contained)
        snprintf(path, room, "/proc/self/fd/%d/%s", HELD_PRIVATE, name);
    else
        snprintf(path, room, "/run/%s", name);
}
