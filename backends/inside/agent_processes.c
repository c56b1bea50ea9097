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

enum { KERNEL_THREAD = 0x00200000, MAX_PASSES = 50 };

int process_look(pid_t pid, struct process *process)
{
    char path[32], text[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (got <= 0)
        return -1;
    text[got] = '\0';
    char *after_name = strrchr(text, ')'); /* the name itself may hold anything */
    char state;
    unsigned int flags;
    if (!after_name ||
        sscanf(after_name + 1, " %c %*d %*d %d %*d %*d %u", &state, &process->session, &flags) != 3)
        return -1;
    process->kernel = (flags & KERNEL_THREAD) != 0;
    process->zombie = state == 'Z' || state == 'X';
    return 0;
}

/* Signal those of a session, or (0) everybody but ourselves, the zygote and the kernel's; how many there were.
 * The process is held while it is looked at, so that the signal cannot reach another one of its number. */
static int signal_once(pid_t session, int number)
{
    DIR *folder = opendir("/proc");
    if (!folder)
        return 0;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        if (pid <= 1 || pid == getpid() || (session == 0 && zygote_owns(pid)))
            continue;
        int held = (int)syscall(SYS_pidfd_open, pid, 0);
        struct process process;
        if (held >= 0 && process_look(pid, &process) == 0 && !process.kernel && !process.zombie &&
            (session == 0 || process.session == session)) {
            syscall(SYS_pidfd_send_signal, held, number, NULL, 0);
            count++;
        }
        if (held >= 0)
            close(held);
    }
    closedir(folder);
    return count;
}

/* What is killed may have forked just before: until nobody is found. */
static void signal_all(pid_t session, int number)
{
    const struct timespec moment = {0, 500000};
    for (int pass = 0; signal_once(session, number) > 0 && number == SIGKILL && pass < MAX_PASSES; pass++)
        nanosleep(&moment, NULL);
}

void signal_session(pid_t session, int number)
{
    signal_all(session, number);
}

void signal_every(int number)
{
    signal_all(0, number);
}

int is_anybody_there(void)
{
    return signal_once(0, 0) > 0;
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
