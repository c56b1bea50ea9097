/* The host's programs that a gate uses: such as set its rules, and the helper that carries packets of a user's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gate.h"

enum { LOOK_MS = 2, CAPABILITIES = 64, ADDING_MS = 10000, MOST_FOUND = 32768 };

static const char STANDS_FOR_NETWORK[] = "@network";

/* Who is not root loses its capabilities by execve(2), but for ambient ones. */
static void keep_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return;
    for (int half = 0; half < 2; half++)
        data[half].inheritable = data[half].permitted;
    if (syscall(SYS_capset, &header, data) < 0)
        return;
    for (unsigned long capability = 0; capability < CAPABILITIES; capability++)
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
}

static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    syscall(SYS_capset, &header, data);
}

/* As the program of these words, with these two as 0, and 1 and 2, and nothing else. */
static _Noreturn void become(char **argv, int input, int output)
{
    char *nothing[] = {NULL};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (dup2(input < 0 ? null : input, STDIN_FILENO) < 0 || dup2(output < 0 ? null : output, STDOUT_FILENO) < 0 ||
        dup2(STDOUT_FILENO, STDERR_FILENO) < 0 || syscall(SYS_close_range, STDERR_FILENO + 1, UINT_MAX, 0) < 0)
        _exit(EXIT_SETUP_FAILED);
    keep_capabilities();
    execve(argv[0], argv, nothing);
    _exit(EXIT_NOT_FOUND);
}

static int64_t now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* ETIMEDOUT: it was killed. */
static int await_end(pid_t pid, uint32_t deadline_ms, uint32_t *status)
{
    int until = (int)syscall(SYS_pidfd_open, pid, 0), ended = 0, error = 0, ready;
    struct pollfd event = {until, POLLIN, 0};
    do
        ready = until < 0 ? 0 : poll(&event, 1, (int)deadline_ms);
    while (ready < 0 && errno == EINTR);
    if (ready <= 0) {
        error = ETIMEDOUT;
        kill(pid, SIGKILL);
    }
    while (waitpid(pid, &ended, 0) < 0 && errno == EINTR)
        ;
    if (until >= 0)
        close(until);
    *status = WIFEXITED(ended) ? (uint32_t)WEXITSTATUS(ended) : 128u + (uint32_t)WTERMSIG(ended);
    return error;
}

int run_program(char **argv, int input, int output, uint32_t deadline_ms, uint32_t *status)
{
    pid_t pid = fork();
    if (pid < 0)
        return errno;
    if (pid == 0)
        become(argv, input, output);
    return await_end(pid, deadline_ms, status);
}

/* One that cannot be added is one that a sandbox might reach: the namespace closes with us. */
static struct {
    char text[MOST_FOUND];
    size_t length;
} found[2]; /* of IPv4 and IPv6: the host's new addresses that are not in the sets yet */

void close_host_addresses(const struct gate *gate)
{
    for (int family = 0; family < 2; family++) {
        uint32_t status = 0;
        char *words[] = {gate->sets[0], "add", "element", "inet", gate->sets[1], gate->sets[2 + family],
                         found[family].text, NULL};
        if (!found[family].length)
            continue;
        memcpy(found[family].text + found[family].length, " }", 3);
        if (run_program(words, -1, -1, ADDING_MS, &status) || status)
            _exit(EXIT_SETUP_FAILED);
        found[family].length = 0;
    }
}

void add_host_address(const char *address, void *gate)
{
    int family = strchr(address, ':') != NULL;
    char *text = found[family].text;
    if (found[family].length + strlen(address) + sizeof("{ , }") > MOST_FOUND)
        close_host_addresses(gate);
    const char *before = found[family].length ? ", " : "{ ";
    found[family].length += (size_t)sprintf(text + found[family].length, "%s%s", before, address);
}

/* It is born before the namespace is made: so it stays in the host's, where packets of a user's come from. */
static _Noreturn void wait_for_words(int from)
{
    static char text[GATE_MESSAGE];
    char ancillary[CMSG_SPACE(sizeof(int))], *words[MAX_WORDS + 1];
    struct iovec part = {text, sizeof(text) - 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = ancillary,
                             .msg_controllen = sizeof(ancillary)};
    ssize_t got = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int output = -1;
    size_t count = 0;
    if (got <= 0)
        _exit(0);
    if (rights && rights->cmsg_type == SCM_RIGHTS)
        memcpy(&output, CMSG_DATA(rights), sizeof(output));
    for (char *word = text; word < text + got && count < MAX_WORDS; word += strlen(word) + 1)
        words[count++] = word;
    words[count] = NULL;
    become(words, -1, output);
}

int start_waiting_helper(struct gate *gate)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return errno;
    gate->helper_pid = fork();
    if (gate->helper_pid == 0) {
        close(gate->control);
        close(ends[0]);
        wait_for_words(ends[1]);
    }
    close(ends[1]);
    gate->helper = ends[0];
    return gate->helper_pid < 0 ? errno : 0;
}

/* A helper that gives up capabilities may look only at processes that have no more than it has: at this one. */
int start_anchor(struct gate *gate)
{
    int ends[2];
    char number[16];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return errno;
    gate->anchor_pid = fork();
    if (gate->anchor_pid < 0)
        return errno;
    if (gate->anchor_pid == 0) {
        drop_capabilities();
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        ssize_t length = readlink("/proc/self", number, sizeof(number));
        if (length <= 0 || write(ends[1], number, (size_t)length) != length)
            _exit(EXIT_SETUP_FAILED);
        if (syscall(SYS_close_range, 0, UINT_MAX, 0) < 0)
            _exit(EXIT_SETUP_FAILED);
        for (;;)
            pause();
    }
    close(ends[1]);
    ssize_t got = read(ends[0], number, sizeof(number) - 1);
    close(ends[0]);
    if (got <= 0)
        return ESRCH;
    snprintf(gate->network, sizeof(gate->network), "/proc/%.*s/ns/net", (int)got, number);
    return 0;
}

int become_helper(struct gate *gate, char **argv, int output)
{
    char text[4096];
    size_t length = 0;
    for (char **word = argv; *word; word++) {
        const char *said = strcmp(*word, STANDS_FOR_NETWORK) ? *word : gate->network;
        size_t bytes = strlen(said) + 1;
        if (bytes > sizeof(text) - length)
            return E2BIG;
        memcpy(text + length, said, bytes);
        length += bytes;
    }
    int error = send_descriptors(gate->helper, text, length, &output, output >= 0, MSG_DONTWAIT) < 0 ? errno : 0;
    close(gate->helper);
    gate->helper = -1;
    return error;
}

/* Whether a line of the kernel's table of routes is of a default route by that link. `link`: the place of its name;
 * `zero`: that of the length of the prefix, or of the mask. */
static int has_default(const char *table, int link, int zero, const char *name)
{
    char line[512];
    int there = 0;
    FILE *file = fopen(table, "re");
    while (file && !there && fgets(line, sizeof(line), file)) {
        char *rest = line, *word;
        int matches = 0;
        for (int place = 0; (word = strsep(&rest, " \t\n")); ) {
            if (!*word)
                continue;
            matches += place == link && strcmp(word, name) == 0;
            matches += place == zero && strspn(word, "0") == strlen(word);
            place++;
        }
        there = matches == 2;
    }
    if (file)
        fclose(file);
    return there;
}

int await_uplink(const struct gate *gate, const char *name, uint32_t deadline_ms, uint32_t families)
{
    int64_t until = now_ms() + deadline_ms;
    struct timespec pause_time = {.tv_nsec = LOOK_MS * 1000000};
    while (1) {
        int four = !(families & GATE_IPV4) || has_default("/proc/self/net/route", 0, 7, name);
        int six = !(families & GATE_IPV6) || has_default("/proc/self/net/ipv6_route", 9, 1, name);
        if (four && six)
            return 0;
        if (waitpid(gate->helper_pid, NULL, WNOHANG) == gate->helper_pid)
            return ECHILD;
        if (now_ms() >= until)
            return ETIMEDOUT;
        nanosleep(&pause_time, NULL);
    }
}
