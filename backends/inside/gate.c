/* Serves the steps that a gate is asked for, one message after another. */
#define _GNU_SOURCE
#include "gate.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"
#include "links.h"

/* The words of the text; ENTER's begins with ids instead, netlink's has none. */
static int split(struct step *step, size_t from)
{
    step->count = 0;
    for (size_t at = from; at < step->length; at += strlen(step->text + at) + 1) {
        if (step->count == MAX_WORDS)
            return E2BIG;
        step->words[step->count++] = step->text + at;
    }
    step->words[step->count] = NULL;
    return 0;
}

static void take_descriptors(struct msghdr *message, struct step *step)
{
    step->fds[0] = step->fds[1] = -1;
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    if (!control || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
        return;
    size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(step->fds, CMSG_DATA(control), (count < GATE_DESCRIPTORS ? count : GATE_DESCRIPTORS) * sizeof(int));
}

/* 0, an errno for a message that is none, or -1: the other end is closed. */
static int receive(int control, char *buffer, struct step *step)
{
    char ancillary[CMSG_SPACE(GATE_DESCRIPTORS * sizeof(int))];
    struct iovec parts[2] = {{&step->asked, sizeof(step->asked)}, {buffer, GATE_MESSAGE}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2, .msg_control = ancillary,
                             .msg_controllen = sizeof(ancillary)};
    ssize_t got;
    do
        got = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return -1;
    take_descriptors(&message, step);
    if (got < (ssize_t)sizeof(step->asked) || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return EMSGSIZE;
    step->text = buffer;
    step->length = (size_t)got - sizeof(step->asked);
    if (step->asked.op == GATE_LOG || step->asked.op == GATE_ASK)
        return 0;
    size_t ids = step->asked.op == GATE_ENTER ? step->asked.numbers[2] * sizeof(struct wire_ids) : 0;
    if (ids > step->length || (step->length > ids && buffer[step->length - 1]))
        return EINVAL;
    return split(step, ids);
}

/* A descriptor that cannot be sent (too many are on their way) is an error like any other. */
static void answer(int control, struct wire_step_done done, const int *fds, size_t count)
{
    if (send_descriptors(control, &done, sizeof(done), fds, count, 0) >= 0 || !count)
        return;
    done.error = errno;
    send_descriptors(control, &done, sizeof(done), NULL, 0, 0);
}

static int write_setting(const char *name, const char *value)
{
    char path[256] = "/proc/sys/";
    if (strlen(name) + strlen(path) >= sizeof(path) || strstr(name, ".."))
        return EINVAL;
    strcat(path, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = write(fd, value, strlen(value)) < 0 ? errno : 0;
    close(fd);
    return error;
}

/* The steps that change links. */
static int change_links(struct gate *gate, const struct step *step)
{
    const uint32_t *number = step->asked.numbers;
    char *const *word = step->words;
    switch (step->asked.op) {
    case GATE_PAIR: /* made on the host's side, which is told apart by its socket */
        return step->count == 2 ? add_pair(gate->host_links, word[1], word[0], gate->network_fd) : EINVAL;
    case GATE_LINK:
        return step->count == 2 ? set_link(number[0] & GATE_ON_HOST ? gate->host_links : gate->links, word[0], word[1],
                                           number[1], (number[0] & GATE_ISOLATED) != 0)
                                : EINVAL;
    case GATE_ADDRESS:
        return step->count == 2 ? add_address(gate->links, word[0], word[1], number[0]) : EINVAL;
    case GATE_ROUTE:
        return step->count == 3 ? add_route(gate->links, word[0], number[0], word[1], word[2],
                                            (number[1] & GATE_LOCAL) != 0)
                                : EINVAL;
    case GATE_SETTING:
        return step->count == 2 ? write_setting(word[0], word[1]) : EINVAL;
    default:
        return ENOSYS;
    }
}

/* -1 with errno. */
static int make_descriptor(const struct step *step)
{
    const uint32_t *number = step->asked.numbers;
    errno = EINVAL;
    switch (step->asked.op) {
    case GATE_LISTEN:
        return step->count == 1 && number[1] <= UINT16_MAX
                   ? make_listener(step->words[0], (int)number[0], (uint16_t)number[1], (int)number[2])
                   : -1;
    default:
        return step->count == 1 ? make_tap(step->words[0]) : -1;
    }
}

static int take_over(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

/* -1: some may have been missed. */
static int close_addresses(struct gate *gate)
{
    if (take_new_addresses(gate->host_watch, add_host_address, gate) < 0)
        return -1;
    close_host_addresses(gate);
    return 0;
}

/* The words are kept: the buffer of a message is the next one's. */
static int watch_host(struct gate *gate, const struct step *step)
{
    if (step->count != 4)
        return EINVAL;
    for (size_t word = 0; word < 4; word++) {
        char *kept = strdup(step->words[word]);
        if (!kept)
            return ENOMEM;
        free(gate->sets[word]);
        gate->sets[word] = kept;
    }
    if (step->asked.numbers[0] && (ask_for_addresses(gate->host_watch) < 0 || close_addresses(gate) < 0))
        _exit(EXIT_SETUP_FAILED);
    return 0;
}

static int use_programs(struct gate *gate, struct step *step, uint32_t *value)
{
    const uint32_t *number = step->asked.numbers;
    switch (step->asked.op) {
    case GATE_RUN:
        return step->count ? run_program(step->words, step->fds[0], step->fds[1], number[0], value) : EINVAL;
    case GATE_HELPER:
        return step->count ? become_helper(gate, step->words, step->fds[0]) : EINVAL;
    case GATE_AWAIT:
        return step->count == 1 ? await_uplink(gate, step->words[0], number[0], number[1]) : EINVAL;
    case GATE_SERVE:
        gate->served = take_over(&step->fds[0]);
        return gate->served < 0 ? EBADF : 0;
    case GATE_WATCH:
        return watch_host(gate, step);
    case GATE_ASK:
        return ask_netfilter(step->text, step->length, step->fds[0]);
    case GATE_LOG:
        gate->log = open_log(step->text, step->length);
        gate->sink = take_over(&step->fds[0]);
        gate->sink_room = number[0] ? (uint64_t)number[0] << 20 : UINT64_MAX;
        return gate->log < 0 ? errno : gate->sink < 0 ? EBADF : 0;
    default:
        return change_links(gate, step);
    }
}

static void take_step(struct gate *gate, struct step *step)
{
    struct wire_step_done done = {.op = step->asked.op};
    int made = -1;
    switch (step->asked.op) {
    case GATE_LISTEN:
    case GATE_TAP:
        made = make_descriptor(step);
        done.error = made < 0 ? errno : 0;
        break;
    default:
        done.error = use_programs(gate, step, &done.value);
    }
    answer(gate->control, done, &made, made >= 0);
    if (made >= 0)
        close(made);
}

static void close_descriptors(struct step *step)
{
    for (int place = 0; place < GATE_DESCRIPTORS; place++)
        if (step->fds[place] >= 0)
            close(step->fds[place]);
}

static int serve(struct gate *gate, char *buffer)
{
    for (;;) {
        struct pollfd events[] = {{gate->control, POLLIN, 0},
                                  {gate->served, POLLIN, 0},
                                  {gate->log, POLLIN, 0},
                                  {gate->owner, POLLIN, 0},
                                  {gate->sets[0] ? gate->host_watch : -1, POLLIN, 0}};
        if ((poll(events, 5, -1) < 0 && errno != EINTR) || events[3].revents)
            return EXIT_SETUP_FAILED;
        if (events[4].revents && close_addresses(gate) < 0)
            return EXIT_SETUP_FAILED;
        if (events[2].revents)
            pass_log_on(gate->log, gate->sink, &gate->sink_room);
        if (events[0].revents) {
            struct step step = {0};
            int error = receive(gate->control, buffer, &step);
            if (error < 0)
                return 0;
            if (error)
                answer(gate->control, (struct wire_step_done){step.asked.op, error, 0}, NULL, 0);
            else
                take_step(gate, &step);
            close_descriptors(&step);
        }
        if (events[1].revents && serve_socket(gate->served) < 0) {
            close(gate->served);
            gate->served = -1;
        }
    }
}

int run_gate(int control)
{
    struct gate gate = {.control = control, .host_watch = -1, .served = -1, .log = -1, .sink = -1, .helper = -1, .users_fd = -1};
    struct step step = {0};
    char *buffer = malloc(GATE_MESSAGE);
    if (!buffer || keep_descriptors(&control, 1, 0).step || receive(control, buffer, &step) || step.asked.op != GATE_ENTER)
        return EXIT_SETUP_FAILED;
    gate.owner = take_over(&step.fds[0]); /* what is held comes second, and stays open as it is */
    int error = gate.owner < 0 ? EBADF : enter_gate(&step, &gate);
    int fds[] = {gate.network_fd, gate.users_fd};
    answer(control, (struct wire_step_done){GATE_ENTER, error, 0}, fds, error ? 0 : gate.users_fd < 0 ? 1 : 2);
    return error ? EXIT_SETUP_FAILED : serve(&gate, buffer);
}
