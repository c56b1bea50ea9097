/* The other processes here, as /proc shows them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

enum { KERNEL_THREAD = 0x00200000, MAX_LISTED = 1 << 16 };

int process_read(pid_t pid, const char *file, char *text, size_t room)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, text, room - 1);
    int error = errno;
    close(fd);
    errno = got < 0 ? error : ESRCH;
    text[got > 0 ? got : 0] = '\0';
    return got > 0 ? 0 : -1;
}

int process_look(pid_t pid, struct process *process)
{
    char text[512];
    if (process_read(pid, "stat", text, sizeof(text)) < 0)
        return -1;
    char *after_name = strrchr(text, ')'); /* the name itself may hold anything */
    char state;
    unsigned int flags;
    long threads;
    if (!after_name ||
        sscanf(after_name + 1, " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld", &state,
               &flags, &threads) != 3)
        return -1;
    process->kernel = (flags & KERNEL_THREAD) != 0;
    process->zombie = (state == 'Z' || state == 'X') && threads <= 1; /* its first thread may end before the others */
    return 0;
}

void forgive_times(struct job *job)
{
    char text[512];
    unsigned long long user, system, tick_us = 1000000u / (unsigned long long)sysconf(_SC_CLK_TCK);
    char *after_name = process_read(job->pid, "stat", text, sizeof(text)) < 0 ? NULL : strrchr(text, ')');
    if (!after_name || sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
                              &system) != 2)
        return;
    job->user_us -= user * tick_us; /* what is added at its end is at least as much */
    job->system_us -= system * tick_us;
}

/* A process may be gone when it is looked at. But who keeps us from looking (prlimit of our descriptors, say) must not
 * escape by it. */
static void check_that_it_is_gone(void)
{
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
        link_broken("its processes cannot be seen");
}

struct found {
    pid_t pid;
    int held; /* its pidfd: a signal cannot reach another one of its number */
    struct process process;
};

static pid_t listed[MAX_LISTED];

/* Whom we could not look at: while a thread executes a program, its process has no threads for a moment. */
static int is_there(const struct found *found)
{
    check_that_it_is_gone();
    return syscall(SYS_pidfd_send_signal, found->held, 0, NULL, 0) == 0;
}

/* Everybody but ourselves, process 1 and the zygote; MAX_LISTED when there is no end of them. */
static int list_processes(void)
{
    int count = 0;
    DIR *folder = opendir("/proc");
    if (!folder)
        link_broken("its processes cannot be seen");
    for (struct dirent *entry; count < MAX_LISTED && (entry = readdir(folder));) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        if (pid > 1 && pid != getpid() && !zygote_owns(pid))
            listed[count++] = pid;
    }
    closedir(folder);
    return count;
}

/* The next one that is there, from the last of a list on: those that have just begun come first, for they may be gone
 * soonest. 0 when there are no more. */
static int next_process(int *count, struct found *found)
{
    while (*count > 0) {
        found->pid = listed[--*count];
        found->process = (struct process){0};
        found->held = (int)syscall(SYS_pidfd_open, found->pid, 0);
        if (found->held < 0)
            check_that_it_is_gone();
        else if (process_look(found->pid, &found->process) == 0 ? !found->process.kernel : is_there(found))
            return 1;
        if (found->held >= 0)
            close(found->held);
    }
    return 0;
}

/* The marks in a container are its own agent's: they say nothing to us. */
static const struct job *container_of(pid_t pid)
{
    char text[256] = "";
    for (const struct job *job = jobs; job; job = job->next) {
        if (!job->is_container || (!*text && process_read(pid, "cgroup", text, sizeof(text)) < 0))
            continue;
        if (group_is_within(&job->group, text))
            return job;
    }
    return NULL;
}

/* Whether it is of the job; -1: it cannot be told now. Its leader need not have put its mark on yet. */
static int is_of(const struct job *job, const struct found *found, const struct mark *mark)
{
    if (found->pid == job->pid && !job->exited)
        return 1;
    const struct job *container = container_of(found->pid);
    if (container || job->is_container)
        return container == job;
    return mark ? mark_may_be(mark, job->mark) : -is_there(found);
}

int signal_processes(const struct job *job, int number)
{
    int count = 0, rest = list_processes();
    struct found found;
    struct mark mark;
    while (next_process(&rest, &found)) {
        int counts = number == SIGKILL || number == 0 || !found.process.zombie;
        if (counts && (!job || is_of(job, &found, mark_read(found.pid, &mark) < 0 ? NULL : &mark) > 0)) {
            syscall(SYS_pidfd_send_signal, found.held, number, NULL, 0);
            count++;
        }
        close(found.held);
    }
    return count;
}

/* Of those who fork and end at once, what was forked after the list was made is missed. But whoever has no other
 * father than us stays, dead, until we reap it: when not even such a one is found, there is nobody. */
void kill_the_dying(void)
{
    int all = list_processes(), rest = all;
    struct found found;
    struct mark mark;
    for (struct job *job = jobs; job; job = job->next)
        if (job->left)
            job->left = group_is_populated(&job->group) || all == MAX_LISTED ? LEFT_SOMETHING : LEFT_UNSEEN;
    while (next_process(&rest, &found)) {
        int meant = 0;
        const struct mark *its = mark_read(found.pid, &mark) < 0 ? NULL : &mark;
        for (struct job *job = jobs; job; job = job->next) {
            int of_it = job->left ? is_of(job, &found, its) : 0;
            job->left = of_it ? LEFT_SOMETHING : job->left;
            meant |= of_it > 0;
        }
        if (meant)
            syscall(SYS_pidfd_send_signal, found.held, SIGKILL, NULL, 0);
        close(found.held);
    }
    for (struct job *job = jobs; job; job = job->next)
        if (job->left == LEFT_UNSEEN)
            job->left = LEFT_NOTHING;
}

int is_anybody_there(void)
{
    return signal_processes(NULL, 0) > 0;
}

int count_processes(void)
{
    DIR *folder = opendir("/proc");
    if (!folder)
        return 0;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct process process;
        pid_t pid = (pid_t)atoi(entry->d_name);
        count += pid > 0 && process_look(pid, &process) == 0 && !process.kernel;
    }
    closedir(folder);
    return count;
}
