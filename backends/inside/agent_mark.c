/* Which job a process is of, whatever it does to hide that: two limits that bind nothing (how many file locks, which
 * Linux has not counted since 2.4; the time under real-time scheduling, which no command may have) are a little
 * different for each job, one the lower where the other is the higher. A process inherits them, and can only lower
 * them, getrlimit(2): then it may be of each job whose limits it has come below, and counts as all of theirs. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

enum { LEAST_ROOM = 1 << 16 };

static const uint64_t most = 1ull << 62;
static struct mark ours;
static uint64_t room, made;

static uint64_t highest(int resource)
{
    struct rlimit64 limit;
    if (syscall(SYS_prlimit64, 0, resource, NULL, &limit) < 0)
        link_broken("its limits are unknown");
    return limit.rlim_max < most ? limit.rlim_max : most;
}

void marks_open(void)
{
    ours = (struct mark){highest(RLIMIT_LOCKS), highest(RLIMIT_RTTIME)};
    room = (ours.locks < ours.time ? ours.locks : ours.time) / 2;
    if (room < LEAST_ROOM)
        link_broken("the limits of file locks or real-time scheduling are too low to tell by them what is whose");
}

uint64_t mark_new(void)
{
    if (made == room)
        link_broken("it has run as many programs as it can tell apart");
    return ++made;
}

void marks_check(void)
{
    if (highest(RLIMIT_LOCKS) < ours.locks || highest(RLIMIT_RTTIME) < ours.time)
        link_broken("its limits were lowered");
}

int marks_are_touched(const struct request *request)
{
    for (uint32_t i = 0; i < request->count[AGENT_TAG_RLIMIT]; i++)
        if (request->rlimits[i].resource == RLIMIT_LOCKS || request->rlimits[i].resource == RLIMIT_RTTIME)
            return 1;
    return 0;
}

static struct mark mark_of(uint64_t number)
{
    return (struct mark){ours.locks - number, ours.time - (room - number)};
}

static int lower(pid_t pid, int resource, uint64_t hard)
{
    struct rlimit64 limit;
    if (syscall(SYS_prlimit64, pid, resource, NULL, &limit) < 0)
        return -1;
    limit.rlim_cur = limit.rlim_cur < hard ? limit.rlim_cur : hard;
    limit.rlim_max = hard;
    return (int)syscall(SYS_prlimit64, pid, resource, &limit, NULL);
}

int mark_put(pid_t pid, uint64_t number)
{
    struct mark mark = mark_of(number);
    return lower(pid, RLIMIT_LOCKS, mark.locks) < 0 ? -1 : lower(pid, RLIMIT_RTTIME, mark.time);
}

/* The second number of a line of proc_pid_limits(5). */
static uint64_t hard_limit(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    char number[21];
    if (!line || sscanf(line + strlen(name), "%*s %20s", number) != 1)
        link_broken("its processes cannot be told apart");
    return number[0] == 'u' ? UINT64_MAX : strtoull(number, NULL, 10); /* unlimited */
}

int mark_read(pid_t pid, struct mark *mark)
{
    char text[4096];
    if (process_read(pid, "limits", text, sizeof(text)) < 0)
        return -1;
    *mark = (struct mark){hard_limit(text, "Max file locks"), hard_limit(text, "Max realtime timeout")};
    return 0;
}

int mark_may_be(const struct mark *mark, uint64_t number)
{
    struct mark whole = mark_of(number);
    return mark->locks <= whole.locks && mark->time <= whole.time;
}
