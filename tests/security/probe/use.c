/* Using up what a host has; every one stops by itself at the amount it was told. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

#define MIB (1024ul * 1024ul)

static long use_memory(char **w)
{
    unsigned long mib = strtoul(w[0], NULL, 10);
    for (unsigned long i = 0; i < mib; i++) {
        char *part = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (part == MAP_FAILED)
            return answer(-1);
        memset(part, 1, MIB);
    }
    if (w[1])
        sleep((unsigned int)atoi(w[1])); /* and keeps it */
    return 0;
}

/* Children wait until this process ends them; prints how many there were. */
static long use_processes(char **w)
{
    long wanted = strtol(w[0], NULL, 10), made = 0, result = 0;
    pid_t *children = calloc((size_t)wanted, sizeof(*children));
    while (children && made < wanted) {
        pid_t child = fork();
        if (child == 0) {
            pause();
            _exit(0);
        }
        if (child < 0) {
            result = answer(-1);
            break;
        }
        children[made++] = child;
    }
    printf("made %ld\n", made);
    fflush(stdout);
    if (w[1])
        sleep((unsigned int)atoi(w[1]));
    for (long i = 0; i < made; i++)
        kill(children[i], SIGKILL);
    return result;
}

static long use_descriptors(char **w)
{
    long wanted = strtol(w[0], NULL, 10);
    for (long i = 0; i < wanted; i++)
        if (dup(STDOUT_FILENO) < 0)
            return answer(-1);
    return 0;
}

static long fill_file(char **w)
{
    static char block[MIB];
    long mib = strtol(w[1], NULL, 10);
    int fd = open(w[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return answer(fd);
    memset(block, 1, sizeof(block));
    for (long i = 0; i < mib; i++) {
        ssize_t written = write(fd, block, sizeof(block));
        if (written < 0)
            return answer(written);
        if (written < (ssize_t)sizeof(block))
            return -ENOSPC;
    }
    return 0;
}

/* Works, without waiting for anything, for so many milliseconds of wall time. */
static long use_processor(char **w)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < atol(w[0]));
    return 0;
}

const struct attempt use_attempts[] = {
    {"memory", use_memory}, {"processes", use_processes}, {"descriptors", use_descriptors},
    {"fill", fill_file}, {"spin", use_processor}, {NULL, NULL},
};
