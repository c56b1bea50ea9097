/* Control groups of their own, for the programs that ask for limits. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define GROUPS "/sys/fs/cgroup"

enum { MAX_GONE = 2 * AGENT_MAX_STREAMS };

static int root = -1;
static uint32_t made;
static char gone[MAX_GONE][32]; /* to be removed when the last process has left them */
static int gone_count;

static int write_at(int folder, const char *file, const char *text)
{
    int fd = openat(folder, file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -1;
    ssize_t put = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return put < 0 ? -1 : 0;
}

static size_t read_at(int folder, const char *file, char *text, size_t room)
{
    int fd = openat(folder, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t got = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = '\0';
    return got > 0 ? (size_t)got : 0;
}

/* A group that is not the root one gives controllers to its children only when no process is in it itself. */
static void enable_controllers(void)
{
    static const char *const wanted[] = {"+memory", "+pids", "+cpu", "+io"};
    char self[16];
    if (write_at(root, "cgroup.subtree_control", "+pids") < 0 && errno == EBUSY) {
        mkdirat(root, "agent", 0755);
        snprintf(self, sizeof(self), "%d", getpid());
        write_at(root, "agent/cgroup.procs", self);
    }
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++)
        write_at(root, "cgroup.subtree_control", wanted[i]); /* what is not there fails at its file */
}

/* `assignment` is FILE=CONTENT. */
static int set_file(int folder, const char *assignment)
{
    char file[64];
    size_t length = strcspn(assignment, "=");
    if (length >= sizeof(file) || memchr(assignment, '/', length)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(file, assignment, length);
    file[length] = '\0';
    return write_at(folder, file, assignment + length + 1);
}

void groups_open(void)
{
    root = open(GROUPS, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

struct outcome group_make(struct control_group *group, const struct request *request)
{
    uint32_t count = request->count[AGENT_TAG_CGROUP];
    if (count == 0)
        return SUCCESS;
    errno = ENOENT;
    if (root < 0)
        return failed(AGENT_STEP_CGROUP, GROUPS);
    if (made == 0)
        enable_controllers();
    snprintf(group->name, sizeof(group->name), "exec-%u", ++made);
    struct outcome outcome = SUCCESS;
    if (mkdirat(root, group->name, 0755) < 0)
        outcome = failed(AGENT_STEP_CGROUP, group->name);
    else if ((group->fd = openat(root, group->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        outcome = failed(AGENT_STEP_CGROUP, group->name);
    for (uint32_t i = 0; outcome.step == 0 && i < count; i++)
        if (set_file(group->fd, request->cgroup[i]) < 0)
            outcome = failed(AGENT_STEP_CGROUP, request->cgroup[i]);
    return outcome;
}

static int counted(int folder, const char *file, const char *event)
{
    char text[512];
    read_at(folder, file, text, sizeof(text));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (strncmp(line, event, strlen(event)) == 0)
            return atoi(line + strlen(event)) > 0;
    return 0;
}

uint32_t group_hits(const struct control_group *group)
{
    if (group->fd < 0)
        return 0;
    uint32_t hits = counted(group->fd, "memory.events", "oom_kill ") ? AGENT_ENDED_HIT_MEMORY : 0;
    return hits | (counted(group->fd, "pids.events", "max ") ? AGENT_ENDED_HIT_PIDS : 0);
}

int group_enter(const struct control_group *group, pid_t pid)
{
    char number[16];
    snprintf(number, sizeof(number), "%d", (int)pid);
    return group->fd < 0 ? 0 : write_at(group->fd, "cgroup.procs", number);
}

int group_signal(const struct control_group *group, int number)
{
    char text[65536];
    if (group->fd < 0)
        return -1;
    if (number == SIGKILL && write_at(group->fd, "cgroup.kill", "1") == 0)
        return 0;
    read_at(group->fd, "cgroup.procs", text, sizeof(text));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (atoi(line) > 1)
            kill(atoi(line), number);
    return 0;
}

static int remove_now(const char *name)
{
    return unlinkat(root, name, AT_REMOVEDIR) == 0 || errno != EBUSY;
}

void group_remove(struct control_group *group)
{
    if (group->fd < 0)
        return;
    group_signal(group, SIGKILL);
    close(group->fd);
    group->fd = -1;
    if (!remove_now(group->name) && gone_count < MAX_GONE)
        memcpy(gone[gone_count++], group->name, sizeof(group->name));
}

void groups_sweep(void)
{
    for (int i = 0; i < gone_count;)
        if (remove_now(gone[i]))
            memcpy(gone[i], gone[--gone_count], sizeof(*gone));
        else
            i++;
}
