/* Attacks on other processes. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "probe.h"

static long send_signal(char **w) { return answer(kill(atoi(w[0]), w[1] ? atoi(w[1]) : 0)); }
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
    {"kill", send_signal}, {"trace", trace}, {"read-memory", read_memory}, {"prlimit", limit_other},
    {"setpriority", schedule_other}, {"capset", raise_capabilities}, {"ambient", raise_ambient}, {NULL, NULL},
};
