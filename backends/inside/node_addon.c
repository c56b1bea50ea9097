/* What JavaScript cannot do for a node that waits in a guest to become a program (see node.cjs): an add-on for it, and
 * preloaded into it, so that something can be done before its first thread begins.
 *
 * It is compiled without a libc. What it calls (Node-API, libc, OpenSSL, V8) is found in the process that it is loaded
 * into, in whatever version that has. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "node_api.h"

#define EXPORT __attribute__((visibility("default"), used))

EXPORT const char mxc_key[] = MXC_KEY;

static char *request_text; /* the environment lies in it */
static struct request request;

/* Before main(): there is one thread yet, and what it gives up the others never have. Without a bounding set, what can
 * be inherited is all that would be left of privileges; who may have them later keeps that too. */
__attribute__((constructor)) static void begin(int count, char **arguments, char **environment)
{
    static const char name[] = "LD_PRELOAD=";
    char **entry = environment;
    (void)count, (void)arguments;
    while (entry && *entry && strncmp(*entry, name, sizeof(name) - 1) != 0)
        entry++;
    if (!entry || !*entry)
        return;
    memset(*entry, 0, strlen(*entry)); /* a program is not to see it in /proc */
    for (; *entry; entry++)
        entry[0] = entry[1];
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || syscall(SYS_capget, &head, sets) < 0)
        return;
    syscall(SYS_setgroups, 0, NULL);
    for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        sets[i].inheritable = 0;
    syscall(SYS_capset, &head, sets);
}

/* Of the libraries, what was only read: it is mapped again where it is needed, and what is not takes no time to end. */
static int forget_segments(struct dl_phdr_info *library, size_t size, void *data)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    (void)size, (void)data;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &library->dlpi_phdr[i];
        uintptr_t start = (library->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        if (segment->p_type == PT_LOAD && !(segment->p_flags & PF_W))
            madvise((void *)start, library->dlpi_addr + segment->p_vaddr + segment->p_memsz - start, MADV_DONTNEED);
    }
    return 0;
}

struct outcome failed(enum agent_step step, const char *subject)
{
    struct outcome outcome = {.step = step, .error = errno};
    strncpy(outcome.subject, subject, sizeof(outcome.subject) - 1);
    return outcome;
}

/* The next word of the agent, 0 at its end: "W", to rehearse once more, or "R", with the request and three streams. */
static char hear(int agent, int fds[4])
{
    char word = 0;
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(4 * sizeof(int))];
    } control = {.space = {0}};
    struct iovec part = {&word, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
    ssize_t got;
    do
        got = syscall(SYS_recvmsg, agent, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (got == 1 && word == 'W')
        return word;
    if (got != 1 || !head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(4 * sizeof(int)))
        return 0;
    memcpy(fds, CMSG_DATA(head), 4 * sizeof(int));
    return word;
}

static struct outcome read_request(int source)
{
    off_t size = lseek(source, 0, SEEK_END);
    request_text = size > 0 ? malloc((size_t)size) : NULL;
    if (!request_text || pread(source, request_text, (size_t)size, 0) != size)
        return failed(AGENT_STEP_ZYGOTE, "");
    close(source);
    errno = request_parse(AGENT_EXEC, request_text, (size_t)size, &request);
    if (errno == 0 && !request.source_text)
        errno = EINVAL;
    return errno ? failed(AGENT_STEP_MESSAGE, "") : SUCCESS;
}

static struct outcome take_streams(const int fds[3])
{
    int tty = request.count[AGENT_TAG_TTY] > 0;
    if (tty && ioctl(fds[0], TIOCSCTTY, 0) < 0)
        return failed(AGENT_STEP_TERMINAL, "");
    for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++) {
        if (dup2(fds[stream], stream) < 0)
            return failed(tty ? AGENT_STEP_TERMINAL : AGENT_STEP_PIPES, "");
        close(fds[stream]);
    }
    return SUCCESS;
}

/* Its own start took time that is not the program's: whole seconds of it, lest the limit were a weaker one. */
static uint64_t later(uint32_t resource, uint64_t limit)
{
    struct timespec taken;
    if (resource != RLIMIT_CPU || limit == UINT64_MAX || clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &taken) < 0)
        return limit;
    return limit + (uint64_t)taken.tv_sec;
}

static struct outcome take_limits(void)
{
    umask(request.umask & 0777);
    for (uint32_t i = 0; i < request.count[AGENT_TAG_RLIMIT]; i++) {
        const struct agent_rlimit *limit = &request.rlimits[i];
        uint64_t both[] = {later(limit->resource, limit->soft), later(limit->resource, limit->hard)};
        if (syscall(SYS_prlimit64, 0, limit->resource, both, NULL) < 0)
            return failed(AGENT_STEP_RLIMIT, "");
    }
    return SUCCESS;
}

/* libc does it for all threads; each then loses its capabilities, but for a root's. */
static struct outcome become_user(void)
{
    const struct agent_user *user = &request.user;
    int privileged = request.count[AGENT_TAG_PRIVILEGED] > 0;
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    errno = EPERM;
    if (user->uid == 0 && !privileged)
        return failed(AGENT_STEP_IDENTITY, "a root without privileges");
    if ((privileged ? setgroups(0, NULL) : getgroups(0, NULL)) != 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
        setresuid(user->uid, user->uid, user->uid) < 0 || (!privileged && syscall(SYS_capset, &head, none) < 0))
        return failed(AGENT_STEP_IDENTITY, "");
    /* As a new program is: whose memory it is decides what its user may see of it in /proc. */
    if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
        return failed(AGENT_STEP_IDENTITY, "");
    return chdir(request.cwd) < 0 ? failed(AGENT_STEP_CWD, request.cwd) : SUCCESS;
}

/* Two clones of a machine have the same generators until now: OpenSSL's of every thread, which follow their first one,
 * and V8's, which every new context draws its seed from. */
static struct outcome reseed(void)
{
    int64_t seed;
    errno = ENOSYS;
    if (!RAND_poll || !v8_current_isolate || !v8_generator || !v8_set_seed ||
        syscall(SYS_getrandom, &seed, sizeof(seed), 0) != sizeof(seed) || RAND_poll() != 1)
        return failed(AGENT_STEP_RANDOM, "");
    v8_set_seed(v8_generator(v8_current_isolate()), seed);
    return SUCCESS;
}

static struct outcome filter(void)
{
    size_t count = request.filter_bytes / sizeof(struct sock_filter);
    if (!request.filter)
        return SUCCESS;
    struct sock_filter *instructions = calloc(count, sizeof(*instructions)); /* at their alignment */
    if (!instructions)
        return failed(AGENT_STEP_SECCOMP, "");
    memcpy(instructions, request.filter, request.filter_bytes);
    struct sock_fprog program = {(unsigned short)count, instructions};
    errno = EAGAIN; /* more than 0: a thread that cannot have it */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        return failed(AGENT_STEP_SECCOMP, "");
    free(instructions);
    return SUCCESS;
}

static struct outcome become(const int fds[4])
{
    struct outcome (*const steps[])(void) = {take_limits, become_user, reseed, filter};
    struct outcome outcome = read_request(fds[0]);
    if (outcome.step == 0)
        outcome = take_streams(fds + 1);
    for (size_t i = 0; outcome.step == 0 && i < sizeof(steps) / sizeof(*steps); i++)
        outcome = steps[i]();
    environ = request.env;
    return outcome;
}

static napi_value text_of(napi_env env, const char *text)
{
    napi_value value = NULL;
    napi_create_string_utf8(env, text, strlen(text), &value);
    return value;
}

/* wait(fd): the words of a program, its source the first, in a process that has become it; none: to rehearse. */
static napi_value wait_for_program(napi_env env, napi_callback_info info)
{
    int32_t agent = -1;
    int fds[4];
    size_t count = 1;
    napi_value argument, words = NULL;
    napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
    napi_get_value_int32(env, argument, &agent);
    char word = write(agent, "R", 1) == 1 ? hear(agent, fds) : 0;
    napi_create_array(env, &words);
    if (word == 'W')
        return words;
    if (word != 'R')
        _exit(0);
    struct outcome outcome = become(fds);
    if (outcome.step) {
        (void)!write(agent, &outcome, sizeof(outcome));
        _exit(127);
    }
    close(agent);
    napi_set_element(env, words, 0, text_of(env, request.source_text));
    for (uint32_t i = 0; i < request.count[AGENT_TAG_ARG]; i++)
        napi_set_element(env, words, i + 1, text_of(env, request.argv[i]));
    return words;
}

/* exit(code): at once. Nobody needs the memory in order that goes with the process. */
static napi_value leave(napi_env env, napi_callback_info info)
{
    int32_t code = 0;
    size_t count = 1;
    napi_value argument;
    napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
    napi_get_value_int32(env, argument, &code);
    fflush(NULL);
    _exit(code);
}

/* pipe(): two descriptors, to be read and to be written. */
static napi_value make_pipe(napi_env env, napi_callback_info info)
{
    int ends[2];
    napi_value pair = NULL, value;
    (void)info;
    if (pipe2(ends, O_CLOEXEC) < 0)
        _exit(126);
    napi_create_array(env, &pair);
    for (uint32_t i = 0; i < 2; i++) {
        napi_create_int32(env, ends[i], &value);
        napi_set_element(env, pair, i, value);
    }
    return pair;
}

/* trim() */
static napi_value trim(napi_env env, napi_callback_info info)
{
    (void)env, (void)info;
    dl_iterate_phdr(forget_segments, NULL);
    return NULL;
}

EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports)
{
    static const struct {
        const char *name;
        napi_callback function;
    } ours[] = {{"wait", wait_for_program}, {"pipe", make_pipe}, {"exit", leave}, {"trim", trim}};
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++) {
        napi_value function;
        napi_create_function(env, ours[i].name, strlen(ours[i].name), ours[i].function, NULL, &function);
        napi_set_named_property(env, exports, ours[i].name, function);
    }
    return exports;
}
