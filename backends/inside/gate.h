/* A gate: the network namespace of one sandbox, and what is done in it by a process that is none of the sandbox's.
 * Functions answer 0 or an errno, those that make a descriptor -1 with errno. */
#ifndef MXC_GATE_H
#define MXC_GATE_H

#include <stddef.h>
#include <sys/types.h>

#include "wire.h"

enum { MAX_WORDS = 64 };

struct gate {
    int control, served; /* where steps and sockets are asked for; -1: nowhere */
    int owner;           /* a pidfd: nothing may outlive it */
    char *sets[4];       /* nft, the table, its sets of the host's addresses; NULL: they are not looked after */
    int log, sink;       /* netlink of what the rules log, and where it goes; -1: nowhere */
    uint64_t sink_room;  /* bytes that may still go there */
    int links, host_links, host_watch; /* netlink, in the sandbox's namespace and in the host's */
    int helper;            /* where it waits for what to become, or -1 */
    pid_t helper_pid, anchor_pid;
    char network[64]; /* the path at which a helper finds the namespace */
    int network_fd, users_fd;
};

/* A message as it came: the words of its text, and what came with it. */
struct step {
    struct wire_step_asked asked;
    char *text;
    size_t length;
    char *words[MAX_WORDS + 1];
    size_t count;
    int fds[GATE_DESCRIPTORS];
};

/* gate.c: serves until the other end of `control` is closed. */
int run_gate(int control);

/* gate_namespaces.c: everything that ENTER asks for; in the child that goes on it returns with `gate` filled. */
int enter_gate(const struct step *step, struct gate *gate);

/* gate_sockets.c */
int make_listener(const char *address, int type, uint16_t port, int backlog);
int make_tap(const char *name);
int open_log(const char *messages, size_t length);
int ask_netfilter(const char *request, size_t length, int output);
void pass_log_on(int log, int sink, uint64_t *room);
int serve_socket(int served);
ssize_t send_descriptors(int socket_fd, const void *data, size_t length, const int *fds, size_t count, int flags);

/* gate_programs.c: of the host, run in the namespace; and the helper that is outside of it. */
int run_program(char **argv, int input, int output, uint32_t deadline_ms, uint32_t *status);
int start_waiting_helper(struct gate *gate);
int start_anchor(struct gate *gate);
int become_helper(struct gate *gate, char **argv, int output);
void add_host_address(const char *address, void *gate);
void close_host_addresses(const struct gate *gate); /* all that were added come into the sets */
int await_uplink(const struct gate *gate, const char *name, uint32_t deadline_ms, uint32_t families);

#endif
