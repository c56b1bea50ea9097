/* Control groups of their own, for the programs that ask for limits. */
#define _GNU_SOURCE
#include <dirent.h>
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
#define CONTAINER "container-"

enum { MAX_GONE = 2 * AGENT_MAX_STREAMS };

static int root = -1;
static uint32_t made;
static struct {
    char name[32], *settings;
    int fd;
} limited = {.fd = -1}; /* the group with the limits, in which those of the programs under them are */
static char gone[MAX_GONE][64]; /* to be removed when the last process has left them */
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
    static int enabled;
    char self[16];
    if (enabled++)
        return;
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

void groups_open(int folder, int all_ours)
{
    root = folder >= 0 ? folder : open(GROUPS, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (all_ours && root >= 0)
        enable_controllers();
}

static struct outcome make_at(int folder, const char *name, int *fd)
{
    if (mkdirat(folder, name, 0755) < 0 || (*fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return failed(AGENT_STEP_CGROUP, name);
    return SUCCESS;
}

/* All settings of a request as one text, to be freed; NULL without memory. */
static char *settings_of(const struct request *request)
{
    size_t length = 1;
    for (uint32_t i = 0; i < request->count[AGENT_TAG_CGROUP]; i++)
        length += strlen(request->cgroup[i]) + 1;
    char *text = calloc(1, length);
    for (uint32_t i = 0; text && i < request->count[AGENT_TAG_CGROUP]; i++)
        strcat(strcat(text, request->cgroup[i]), "\n");
    return text;
}

static void forget_limited(void)
{
    if (limited.fd >= 0)
        close(limited.fd);
    if (limited.settings)
        unlinkat(root, limited.name, AT_REMOVEDIR); /* unless something is in it yet */
    free(limited.settings);
    limited.settings = NULL;
    limited.fd = -1;
}

/* What asks for the same limits is under them together: a policy's hold for all of its sandbox, however many programs
 * run there at once. */
static struct outcome share_limits(const struct request *request)
{
    char *settings = settings_of(request);
    if (!settings)
        return failed(AGENT_STEP_CGROUP, "");
    if (limited.settings && strcmp(limited.settings, settings) == 0) {
        free(settings);
        return SUCCESS;
    }
    forget_limited();
    limited.settings = settings;
    snprintf(limited.name, sizeof(limited.name), "limits-%u", ++made);
    struct outcome outcome = make_at(root, limited.name, &limited.fd);
    for (uint32_t i = 0; outcome.step == 0 && i < request->count[AGENT_TAG_CGROUP]; i++)
        if (set_file(limited.fd, request->cgroup[i]) < 0)
            outcome = failed(AGENT_STEP_CGROUP, request->cgroup[i]);
    if (outcome.step)
        forget_limited();
    return outcome;
}

struct outcome group_make(struct control_group *group, const struct request *request)
{
    if (request->count[AGENT_TAG_CGROUP] == 0)
        return SUCCESS;
    errno = ENOENT;
    if (root < 0)
        return failed(AGENT_STEP_CGROUP, GROUPS);
    enable_controllers();
    struct outcome outcome = share_limits(request);
    if (outcome.step)
        return outcome;
    snprintf(group->name, sizeof(group->name), "%s/exec-%u", limited.name, ++made);
    return make_at(root, group->name, &group->fd);
}

/* Without limits, for what cannot be told from others by its marks. A container's own agent makes groups in it, so that
 * nobody may be in it itself: its processes begin in one below. */
struct outcome group_make_container(struct control_group *group, const struct request *request, int *first)
{
    errno = ENOENT;
    if (root < 0)
        return failed(AGENT_STEP_CGROUP, GROUPS);
    enable_controllers();
    snprintf(group->name, sizeof(group->name), CONTAINER "%u", ++made);
    struct outcome outcome = make_at(root, group->name, &group->fd);
    for (uint32_t i = 0; outcome.step == 0 && i < request->count[AGENT_TAG_CGROUP]; i++)
        if (set_file(group->fd, request->cgroup[i]) < 0)
            outcome = failed(AGENT_STEP_CGROUP, request->cgroup[i]);
    return outcome.step ? outcome : make_at(group->fd, "agent", first);
}

void group_path(const struct control_group *group, char *path, size_t room)
{
    snprintf(path, room, GROUPS "/%s", group->name);
}

int group_is_within(const struct control_group *group, const char *text)
{
    static const char before[] = "0::/";
    const size_t length = strlen(group->name);
    const char *name = text + sizeof(before) - 1;
    return strncmp(text, before, sizeof(before) - 1) == 0 && strncmp(name, group->name, length) == 0 &&
           name[length] == '/';
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
    uint32_t hits = counted(group->fd, "../memory.events", "oom_kill ") ? AGENT_ENDED_HIT_MEMORY : 0;
    return hits | (counted(group->fd, "../pids.events", "max ") ? AGENT_ENDED_HIT_PIDS : 0);
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

int group_is_populated(const struct control_group *group)
{
    return group->fd >= 0 && counted(group->fd, "cgroup.events", "populated ");
}

/* What a container's own agent has made in its group. */
static void empty(const char *name)
{
    int fd = openat(root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char below[256];
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.' ||
            snprintf(below, sizeof(below), "%s/%s", name, entry->d_name) >= (int)sizeof(below))
            continue;
        empty(below);
        unlinkat(root, below, AT_REMOVEDIR);
    }
    if (folder)
        closedir(folder);
}

static int remove_now(const char *name)
{
    if (strncmp(name, CONTAINER, strlen(CONTAINER)) == 0)
        empty(name);
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
