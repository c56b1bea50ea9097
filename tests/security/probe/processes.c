/* Attacks on other processes. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

static long send_signal(char **w) { return answer(kill(atoi(w[0]), w[1] ? atoi(w[1]) : 0)); }

/* For so many seconds, as fast as three of us can: signals that queue up, and that say they come from outside. Many
 * others are there to pass them on to, if anybody believes that. */
static long flood(char **w)
{
    time_t end = time(NULL) + (w[1] ? atoi(w[1]) : 0);
    siginfo_t info = {.si_code = SI_QUEUE};
    pid_t target = atoi(w[0]);
    int is_child = 0;
    signal(SIGRTMIN + 5, SIG_IGN);
    for (int i = 0; i < 200 && !is_child; i++)
        if (fork() == 0) {
            is_child = i < 2;
            while (!is_child)
                pause();
        }
    while (time(NULL) < end)
        for (int i = 0; i < 1000; i++)
            syscall(SYS_rt_sigqueueinfo, target, SIGRTMIN + 5, &info);
    if (is_child)
        _exit(0);
    return 0;
}

static void *nap(void *seconds)
{
    sleep((unsigned int)atoi(seconds));
    return NULL;
}

/* The first thread of a process ends, and the process looks as if it had. */
static long lose_first_thread(char **w)
{
    pthread_t other;
    if (pthread_create(&other, NULL, nap, w[0]) != 0)
        return -EAGAIN;
    syscall(SYS_exit, 0);
    return 0;
}

/* Whoever looks for it finds a dead one: each forks the next and ends at once. */
static long chain(char **w)
{
    time_t end = time(NULL) + atoi(w[0]);
    if (fork() > 0)
        for (;;)
            pause();
    setsid();
    signal(SIGTERM, SIG_IGN);
    while (time(NULL) < end)
        if (fork() > 0)
            _exit(0);
    _exit(0);
}

static void *start_again(void *seconds)
{
    char word[32];
    snprintf(word, sizeof(word), "switch-threads=%s", (char *)seconds);
    execl("/proc/self/exe", AGAIN, word, NULL);
    _exit(1);
}

/* While a thread that is not the first executes a program, its process has, for a moment, no thread to look at. */
static long switch_threads(char **w)
{
    struct itimerval left;
    pthread_t other;
    getitimer(ITIMER_REAL, &left);
    if (left.it_value.tv_sec == 0 && left.it_value.tv_usec == 0) {
        if (fork() > 0)
            for (;;)
                pause();
        setsid();
        alarm((unsigned int)atoi(w[0]));
    }
    if (pthread_create(&other, NULL, start_again, w[0]) != 0)
        return -EAGAIN;
    for (;;)
        pause();
}

static void awake(int number) { (void)number; }

/* The kernel wakes it again and again, whoever stops it: but only who takes the signal. */
static long wake_by_alarm(char **w)
{
    (void)w;
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGCONT};
    struct itimerspec each_second = {{1, 0}, {1, 0}};
    signal(SIGCONT, awake);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0 || timer_settime(timer, 0, &each_second, NULL) < 0)
        return -errno;
    for (;;)
        ;
}

/* The end of what is traced is told to nobody else before its tracer knows. */
static long hide_end(char **w)
{
    long result = answer(ptrace(PTRACE_SEIZE, atoi(w[0]), NULL, NULL));
    sleep((unsigned int)atoi(w[1]));
    return result;
}

static long trace(char **w) { return answer(ptrace(PTRACE_SEIZE, atoi(w[0]), NULL, NULL)); }

/* Address 0 is never mapped: EFAULT means that the right to look was given. */
static long read_memory(char **w)
{
    char to[8];
    struct iovec local = {to, sizeof(to)}, remote = {NULL, sizeof(to)};
    long result = answer(process_vm_readv(atoi(w[0]), &local, 1, &remote, 1, 0));
    return result == -EFAULT ? 0 : result;
}

static long limit_other(char **w)
{
    struct rlimit limit;
    return answer(prlimit(atoi(w[0]), RLIMIT_NOFILE, NULL, &limit));
}

/* What it opens next is one too many. */
static long starve_other(char **w)
{
    struct rlimit limit = {3, 3};
    return answer(prlimit(atoi(w[0]), RLIMIT_NOFILE, &limit, NULL));
}

static long schedule_other(char **w) { return answer(setpriority(PRIO_PROCESS, (id_t)atoi(w[0]), 19)); }

static long raise_capabilities(char **w)
{
    (void)w;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{1u << CAP_NET_RAW, 1u << CAP_NET_RAW, 1u << CAP_NET_RAW}, {0, 0, 0}};
    return answer(syscall(SYS_capset, &header, data));
}

static long raise_ambient(char **w)
{
    (void)w;
    return answer(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0));
}

const struct attempt process_attempts[] = {
    {"kill", send_signal}, {"flood", flood}, {"starve", starve_other}, {"trace", trace}, {"read-memory", read_memory},
    {"prlimit", limit_other}, {"lose-first-thread", lose_first_thread}, {"hide-end", hide_end}, {"chain", chain},
    {"switch-threads", switch_threads}, {"wake-by-alarm", wake_by_alarm}, {"setpriority", schedule_other}, {"capset", raise_capabilities},
    {"ambient", raise_ambient}, {NULL, NULL},
};
