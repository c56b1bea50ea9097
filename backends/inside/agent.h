/* The parts of the agent and what they share. */
#ifndef MXC_AGENT_H
#define MXC_AGENT_H

#include <sys/types.h>
#include <unistd.h>

#include "agent_decode.h"

/* What a request ended in; `step` 0 is success. A child sends it through a pipe, so it fits into PIPE_BUF. */
struct outcome {
    uint32_t step;
    int32_t error;
    uint64_t bytes, entries;
    char subject[256];
};

#define SUCCESS ((struct outcome){0})

/* A failure with the current errno. */
struct outcome failed(enum agent_step step, const char *subject);

/* agent_loop.c: something that epoll(7) tells about, one event at a time. */
struct watch {
    int fd; /* -1: nothing */
    void (*ready)(struct watch *watch, uint32_t events);
};

#define OWNER_OF(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

void loop_init(void);
int watch_add(struct watch *watch, uint32_t events);
void watch_change(struct watch *watch, uint32_t events);
int watch_release(struct watch *watch); /* no longer watched; the descriptor */
void watch_close(struct watch *watch);
int64_t now_ms(void);
_Noreturn void loop_run(void);

/* agent_link.c: the connection to the host. */
void link_open(int fd, int is_socket);
void link_send(enum agent_kind kind, uint32_t flags, uint32_t stream, const void *payload, size_t length);
void link_send_outcome(uint32_t stream, const struct outcome *outcome); /* DONE or FAILED */
int link_is_socket(void);
int link_flush(void); /* 1: there is more to do at once */
_Noreturn void link_broken(const char *why);

/* agent.c */
void dispatch(const struct frame *frame);
void forget_messages(void);
uint64_t boot_us(void);

/* agent_stream.c: what flows to and from the processes of a job. */
enum { CHANNELS = 2, LINGER_MS = 200 /* from a program's exit to the end of output that others hold */ };

struct input {
    struct watch watch;
    char *held;
    size_t start, end;
    uint32_t credit, taken; /* what the host may still send; what was passed on and not yet granted again */
    int ended, closed;
};

struct output {
    struct watch watch;
    struct output *next; /* of those that may have something to read */
    uint32_t credit;
    uint16_t channel;
    int listed, starved, is_terminal;
    int64_t limit; /* how much may still pass; -1: no limit */
};

struct job;
void input_open(struct job *job, int fd);
void input_start(struct job *job);
int input_take(struct job *job, const char *bytes, size_t length); /* -1: more than the host had credit for */
void input_end(struct job *job);
void input_close(struct job *job);
void output_open(struct job *job, enum agent_channel channel, int fd);
void output_start(struct output *output);
void output_close(struct output *output);
void output_credit(struct job *job, uint32_t channel, uint32_t bytes);
void output_refuse(struct job *job, uint32_t channel); /* nobody takes it any more */
void output_linger(struct output *output);
/* agent_piece.c: one frame of output, in `bytes` from `start` to `end`, or `spliced` bytes of it in the pipe. */
struct piece {
    int gathered[2], pipe[2];
    size_t start, end, spliced;
    char bytes[sizeof(struct agent_frame) + 16384];
};

int piece_init(struct piece *piece);
void piece_drop(struct piece *piece);
/* At most `most` bytes of an output into an empty piece; how many, 0 at its end, -1 with errno. */
ssize_t piece_take(struct piece *piece, uint32_t stream, const struct output *output, size_t most);
int piece_write(struct piece *piece, int fd); /* what is in the pipe: 1 when all of it is out */

int outputs_next(struct piece *piece); /* 0: there is none now */

/* agent_job.c: a request that lives for a while, and its leading process. */
struct control_group {
    int fd; /* of its directory, -1: none */
    char name[64]; /* below the root of groups */
};

/* What a job is to give to a spare of the zygote, once there is one. */
struct handover {
    int waits, privileged;
    int rehearsed; /* of a SYNC: it has told the spares to */
    int source; /* the request, in a file */
    int streams[3];
};

/* Whether anything is still there of what was killed; a kill is done when it is LEFT_NOTHING. */
enum left { LEFT_NOTHING, LEFT_UNSEEN, LEFT_SOMETHING };

struct job {
    struct job *next;
    uint32_t stream, kind;
    uint64_t mark;
    pid_t pid;
    int exited, started, reported, timed_out, is_container;
    int expired; /* what it leaves behind is killed */
    int status;
    struct outcome outcome;
    struct watch report; /* the pipe on which the child tells its outcome, and whose end tells that it started */
    struct input input;
    struct output outputs[CHANNELS];
    int terminal; /* the master's side, or -1 */
    struct control_group group;
    struct handover handover;
    int64_t linger_at, timeout_at; /* in ms, 0: not set */
    enum left left; /* by a kill */
    int64_t dying_ms; /* so long ago it was killed, as far as we ran meanwhile */
    struct agent_timeout timeout;
    uint64_t user_us, system_us, max_rss_kib;
};

extern struct job *jobs;
struct job *job_find(uint32_t stream);
struct job *job_new(uint32_t stream, uint32_t kind);
int job_count(void);
void job_begin(struct job *job); /* its process runs: what it reads and writes may flow */
void job_free(struct job *job);
void job_settle(struct job *job);
void jobs_reap(void);
void jobs_tick(void);
int64_t jobs_deadline(void); /* in ms from now, -1: none */
void jobs_reset(void);
int job_watch_report(struct job *job, int fd);

void job_signal(struct job *job, int number); /* may end a job whose program has not begun */
int signal_everybody(int number); /* how many are still there */

/* agent_group.c: control groups of their own. */
/* Once, while the names of the system are what they are. `folder`: -1: the system's; `all_ours`: all of them are, and
 * a clone is to find done what takes time. */
void groups_open(int folder, int all_ours);
struct outcome group_make(struct control_group *group, const struct request *request);
void group_path(const struct control_group *group, char *path, size_t room);
struct outcome group_make_container(struct control_group *group, const struct request *request, int *first);
int group_is_within(const struct control_group *group, const char *text); /* of a process's `cgroup` in /proc */
uint32_t group_hits(const struct control_group *group); /* as flags of AGENT_ENDED */
int group_enter(const struct control_group *group, pid_t pid); /* if there is one */
int group_signal(const struct control_group *group, int number); /* -1: there is none */
int group_is_populated(const struct control_group *group);
void group_remove(struct control_group *group);
void groups_sweep(void);

/* agent_start.c */
void start_exec(uint32_t stream, char *message, size_t size);
/* The program's standard streams, in `fds`, and the job's side of them. */
struct outcome make_streams(struct job *job, const struct request *request, int fds[3]);
void close_streams(int fds[3]);

/* agent_task.c: PUT, GET, MOUNT, HIDE and SYNC, each in a child. */
void start_task(uint32_t kind, uint32_t stream, char *message, size_t size);
struct outcome unpack(const struct request *request); /* agent_unpack.c */
struct outcome pack(const struct request *request); /* agent_pack.c */
struct outcome mount_it(const struct request *request); /* agent_mount.c */
struct outcome hide_them(const struct request *request); /* agent_hide.c */
unsigned long mount_flags_of(uint32_t wanted);
void forget_disk(const char *device);
int is_of_disks(const char *type); /* a file system of block devices that may be mounted */

/* agent_container.c: a container, from outside */
void start_container(uint32_t stream, char *message, size_t size);
int containers_prepare(void); /* what takes time and can be done before there is any; -1 with errno */

/* agent_contained.c: process 1 of a container has these, where no program there can get; -1 elsewhere. */
enum { HELD_DEVICES = STDERR_FILENO + 1, HELD_PRIVATE, HELD_GROUPS, HELD_LINK, FIRST_FREE };

/* Returns only on failure, with errno. */
void become_agent(int devices, int private, int groups, int link, int program, int report);
int live_in_container(void); /* as which it was executed; the connection's descriptor */
int held_groups(void);
int first_of_none(void); /* the first descriptor that a task has no use for */
const char *device_path(const char *device); /* what it is called here */
void private_path(const char *name, char *path, size_t room); /* of a file of ours that nobody sees */

/* agent_container_root.c, agent_container_system.c: in the child, before it is the agent of its container. */
struct assembly {
    const struct request *request;
    char groups_path[128]; /* of the container's control group */
    int devices, private, groups; /* to be held */
    int root, empty_file, empty_folder, resolver;
};

struct outcome assemble_root(struct assembly *assembly);
struct outcome make_system(const struct assembly *assembly); /* /proc, /sys, /dev and the files of /etc */

/* agent_child.c: in the child. */
void child_prepare(void); /* in the agent itself, once */
void restore_limits(void);
int keep_only(int descriptor, int first); /* and what is below `first` */

/* Returns only on failure. `fds`: its standard streams. */
struct outcome become_program(const struct request *request, uint64_t mark, const int fds[3], int report);

/* agent_port.c: the end of such a child, or why there is no way; `report` is closed when there is one. */
struct outcome pass_port(uint16_t port, int report);

/* agent_mark.c: what a job has started carries its mark. */
struct mark {
    uint64_t locks, time;
};

void marks_open(void);
void marks_check(void); /* somebody may have taken them from us */
int marks_are_touched(const struct request *request); /* by the limits that it asks for */
uint64_t mark_new(void); /* its number, from 1 on */
int mark_put(pid_t pid, uint64_t number); /* process 0: ourselves; -1 with errno */
int mark_read(pid_t pid, struct mark *mark); /* -1 with errno */
int mark_may_be(const struct mark *mark, uint64_t number);

/* agent_processes.c */
struct process {
    int kernel, zombie;
};

int process_read(pid_t pid, const char *file, char *text, size_t room); /* of its folder in /proc; -1 with errno */
int process_look(pid_t pid, struct process *process);
void forgive_times(struct job *job); /* what its process has taken before it was the job's is not told as the job's */
/* NULL: all. How many there are; for a kill, and with number 0, the dead count. */
int signal_processes(const struct job *job, int number);
void kill_the_dying(void); /* the jobs of which something is left */
int is_anybody_there(void); /* besides ourselves, the zygote and the kernel's */
int count_processes(void);

/* agent_interpreter.c: the one that waits for source. */
enum { INTERPRETER_WORDS = 12 };

struct interpreter {
    int forks; /* it is a zygote; else it is started anew for each program */
    char *path;
    size_t count; /* of its arguments, to which the number of a socket is added */
    char *arguments[INTERPRETER_WORDS + 2], *environment[INTERPRETER_WORDS + 4];
};

/* `words` as of env(1): variables, path, arguments. -1 with errno. */
int interpreter_take(struct interpreter *interpreter, int forks, char *const *words);
_Noreturn void become_interpreter(const struct interpreter *interpreter, int control, int privileged);
int interpreter_tell(int socket, const char *word, const int *fds, size_t count); /* at most 4; -1 with errno */
int interpreter_keep(const char *message, size_t size); /* as a file that it can be given; -1 with errno */

/* agent_zygote.c */
struct outcome zygote_start(struct job *job, const struct request *request, const char *message, size_t size);
uint32_t zygote_is_there(void);
int zygote_is_settled(struct job *sync); /* what it makes ahead is made, and has rehearsed, if it lives */
void zygote_greeted(void); /* by a host */
int zygote_owns(pid_t pid);
int zygote_reaped(pid_t pid); /* 1: it was the zygote itself, or the only spare */
void zygote_configure(int forks, char *const *words); /* as of interpreter_take(); they are kept */
void zygote_tick(int64_t now);
int64_t zygote_deadline(void); /* as of now_ms(), 0: none */
void zygote_forget(struct handover *handover);
void zygote_doubt(void); /* its interpreter may be hidden from now on */

/* agent_identity.c, agent_report.c */
int identity_make_files(void); /* before the root of the programs is in its place; -1 with errno */
int identity_show_files(void); /* in it */
struct outcome take_identity(const char *payload, size_t length);
int identity_set_resolver(const char *text); /* -1 with errno */
struct outcome take_network(const char *payload, size_t length); /* agent_network.c */
void send_report(uint32_t stream);
int raise_loopback(void); /* of a network that is new, and ours alone; -1 with errno */
void set_kernel(const char *setting, const char *value); /* what a kernel does not have needs no setting */

/* agent_boot.c: everything before the connection, as process 1 of a virtual machine; the port's descriptor. */
int boot(void);
_Noreturn void power_off(void);

#endif
