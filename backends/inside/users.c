/* User namespaces: their maps, and going into one that is the caller's own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher.h"

enum { DIGITS = 12 };

/* One line for each of the ids; `groups`: those of groups. */
static int write_map(pid_t pid, const char *name, const struct wire_ids *ids, uint32_t count, int groups)
{
    char path[64], map[128] = "";
    int length = 0;
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    for (uint32_t i = 0; i < count; i++)
        length += snprintf(map + length, sizeof(map) - (size_t)length, "%u %u 1\n",
                           groups ? ids[i].inside_gid : ids[i].inside_uid, groups ? ids[i].host_gid : ids[i].host_uid);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, map, (size_t)length);
    int saved = errno;
    close(fd);
    errno = saved;
    return written == length ? 0 : -1;
}

static int open_mapped_namespace(pid_t pid, const struct wire_ids *ids, uint32_t count)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    if (write_map(pid, "uid_map", ids, count, 0) < 0 || write_map(pid, "gid_map", ids, count, 1) < 0)
        return -1;
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* A user namespace exists only through a process: one is born into it, and ends when the maps are written. */
static pid_t start_holder(void)
{
    pid_t launcher = getpid(), pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launcher)
        _exit(EXIT_SETUP_FAILED);
    for (;;)
        pause();
}

static void end_holder(pid_t pid)
{
    int saved = errno;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    errno = saved;
}

int make_id_maps(const struct wire_ids *ids, uint32_t count)
{
    pid_t holder = start_holder();
    if (holder < 0)
        return -1;
    int users = open_mapped_namespace(holder, ids, count);
    end_holder(holder);
    return users;
}

/* Ids beside one's own are granted by the host (subuid(5)), and written by its set-id tools alone. */
static int run_mapper(const char *mapper, pid_t holder, const struct spec *spec, int groups)
{
    char words[1 + 3 * MAX_IDS][DIGITS], *nothing[] = {NULL};
    char *argv[3 + 3 * MAX_IDS] = {(char *)(uintptr_t)mapper, words[0]};
    snprintf(words[0], DIGITS, "%d", (int)holder);
    for (uint32_t i = 0; i < spec->count[TAG_USERS]; i++) {
        const struct wire_ids *ids = &spec->users[i];
        char **argument = argv + 2 + 3 * i;
        for (int part = 0; part < 3; part++)
            argument[part] = words[1 + 3 * i + (uint32_t)part];
        snprintf(argument[0], DIGITS, "%u", groups ? ids->inside_gid : ids->inside_uid);
        snprintf(argument[1], DIGITS, "%u", groups ? ids->host_gid : ids->host_uid);
        snprintf(argument[2], DIGITS, "1");
    }
    pid_t pid = fork();
    if (pid == 0) {
        syscall(SYS_close_range, STDERR_FILENO + 1, UINT_MAX, 0);
        execve(mapper, argv, nothing);
        _exit(EXIT_NOT_FOUND);
    }
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    errno = EPERM;
    return status == 0 ? 0 : -1;
}

static int write_word(pid_t pid, const char *name, const char *word)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, word, strlen(word));
    int saved = errno;
    close(fd);
    errno = saved;
    return written < 0 ? -1 : 0;
}

static struct failure join_users(pid_t holder)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)holder);
    int users = open(path, O_RDONLY | O_CLOEXEC);
    struct failure failure = users < 0 || setns(users, CLONE_NEWUSER) < 0 ? FAILED(STEP_USERS, 3) : NO_FAILURE;
    if (users >= 0)
        close(users);
    return failure;
}

/* The caller's own ids alone, for which nobody need be asked; its groups stay as they are. */
struct failure enter_own_users(const struct spec *spec)
{
    pid_t holder = start_holder();
    if (holder < 0)
        return FAILED(STEP_USERS, 0);
    struct failure failure = NO_FAILURE;
    if (write_map(holder, "uid_map", spec->users, 1, 0) < 0)
        failure = FAILED(STEP_USERS, 1);
    else if (write_word(holder, "setgroups", "deny") < 0 || write_map(holder, "gid_map", spec->users, 1, 1) < 0)
        failure = FAILED(STEP_USERS, 2);
    else
        failure = join_users(holder);
    end_holder(holder);
    return failure;
}

/* Everything but what it is called is the caller's: it has gained capabilities over its own namespace alone. */
struct failure enter_users(const struct spec *spec)
{
    pid_t holder = start_holder();
    if (holder < 0)
        return FAILED(STEP_USERS, 0);
    struct failure failure = NO_FAILURE;
    for (int groups = 0; !failure.step && groups < 2; groups++)
        if (run_mapper(spec->mappers[groups], holder, spec, groups) < 0)
            failure = FAILED(STEP_USERS, 1 + groups);
    if (!failure.step)
        failure = join_users(holder);
    end_holder(holder);
    return failure;
}

struct failure become_root_of_users(void)
{
    if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
        return FAILED(STEP_USERS, 4);
    return NO_FAILURE;
}
