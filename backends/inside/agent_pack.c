/* A GET: a file, or a folder with what is in it, as an archive on standard output.
 *
 * Hard links come out as files of their own; sockets, pipes and devices do not come out at all, and neither does
 * what is mounted somewhere below. A program may change everything meanwhile: a file has the size that its header
 * says, cut or filled up with zeros. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "agent_below.h"
#include "agent_tar.h"

enum { BUFFER = 65536, MAX_OPEN = 4096 };

static struct {
    const struct request *request;
    struct outcome outcome;
    struct tar_entry entry;
    char path[TAR_MAX_PATH]; /* of the entry, in the archive */
    char buffer[BUFFER];
    size_t used;
} state;

static int fail(enum agent_step step)
{
    uint64_t bytes = state.outcome.bytes, entries = state.outcome.entries;
    state.outcome = failed(step, state.path);
    state.outcome.bytes = bytes;
    state.outcome.entries = entries;
    return -1;
}

static int flush(void)
{
    for (size_t done = 0; done < state.used;) {
        ssize_t put = write(STDOUT_FILENO, state.buffer + done, state.used - done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return fail(AGENT_STEP_READ);
        done += (size_t)put;
    }
    state.used = 0;
    return 0;
}

static int write_header(const struct stat *status, char type)
{
    const struct agent_at_most *most = &state.request->at_most;
    state.entry.type = type;
    state.entry.size = type == TAR_FILE ? (uint64_t)status->st_size : 0;
    state.entry.mode = (uint32_t)status->st_mode & (type == TAR_FOLDER ? 01777 : 0777);
    state.entry.uid = status->st_uid;
    state.entry.gid = status->st_gid;
    state.entry.mtime = status->st_mtim.tv_sec;
    state.entry.mtime_ns = (uint32_t)status->st_mtim.tv_nsec;
    memcpy(state.entry.path, state.path, sizeof(state.path));
    errno = EFBIG;
    if (state.outcome.entries >= most->entries || state.entry.size > most->bytes - state.outcome.bytes)
        return fail(AGENT_STEP_TOO_MUCH);
    state.outcome.entries++;
    state.outcome.bytes += state.entry.size;
    if (BUFFER - state.used < TAR_MAX_HEADER && flush() < 0)
        return -1;
    state.used += tar_write(&state.entry, state.buffer + state.used);
    return 0;
}

/* The next piece of a file, of whole blocks; where there is no more of it, zeros. */
static int add_content(int fd, size_t size)
{
    size_t padded = (size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK, got = 0;
    char *place = state.buffer + state.used;
    while (got < size) {
        ssize_t more = read(fd, place + got, size - got);
        if (more < 0 && errno == EINTR)
            continue;
        if (more < 0)
            return fail(AGENT_STEP_READ);
        if (more == 0)
            break;
        got += (size_t)more;
    }
    memset(place + got, 0, padded - got);
    state.used += padded;
    return 0;
}

static int pack_content(int fd)
{
    for (uint64_t left = state.entry.size; left > 0;) {
        if (state.used == BUFFER && flush() < 0)
            return -1;
        size_t room = BUFFER - state.used, piece = left < room ? (size_t)left : room;
        if (add_content(fd, piece) < 0)
            return -1;
        left -= piece;
    }
    return 0;
}

static int pack_file(int folder, const char *name)
{
    struct stat status;
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES && is_mounted(folder, name))
        return 0; /* what is denied: as if it were not there */
    if (fd < 0)
        return errno == ENOENT || errno == ELOOP || errno == ENXIO ? 0 : fail(AGENT_STEP_READ);
    int result = 0;
    if (fstat(fd, &status) < 0)
        result = fail(AGENT_STEP_READ);
    else if (S_ISREG(status.st_mode))
        result = write_header(&status, TAR_FILE) < 0 ? -1 : pack_content(fd);
    close(fd);
    return result;
}

static int pack_symlink(int folder, const char *name, const struct stat *status)
{
    ssize_t length = readlinkat(folder, name, state.entry.link, sizeof(state.entry.link) - 1);
    if (length < 0)
        return errno == ENOENT || errno == EINVAL ? 0 : fail(AGENT_STEP_READ);
    state.entry.link[length] = '\0';
    int result = write_header(status, TAR_SYMLINK);
    state.entry.link[0] = '\0';
    return result;
}

static int pack_folder(int fd, const struct stat *status);

/* Something below that is mounted there is of another kind of place: only that it is there is told. */
static int pack_subfolder(int folder, const char *name, const struct stat *status)
{
    int fd = open_same_mount(folder, name);
    if (fd >= 0)
        return pack_folder(fd, status);
    if (errno == EXDEV)
        return write_header(status, TAR_FOLDER);
    return errno == ENOENT || errno == ELOOP || errno == ENOTDIR ? 0 : fail(AGENT_STEP_READ);
}

static int pack_member(int folder, const char *name)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : fail(AGENT_STEP_READ);
    if (S_ISDIR(status.st_mode))
        return pack_subfolder(folder, name, &status);
    if (S_ISLNK(status.st_mode))
        return pack_symlink(folder, name, &status);
    return S_ISREG(status.st_mode) ? pack_file(folder, name) : 0;
}

/* Closes `fd`. */
static int pack_folder(int fd, const struct stat *status)
{
    size_t length = strlen(state.path);
    int result = write_header(status, TAR_FOLDER);
    DIR *members = fdopendir(fd);
    if (!members) {
        close(fd);
        return result < 0 ? -1 : fail(AGENT_STEP_READ);
    }
    for (struct dirent *member; result == 0 && (errno = 0, member = readdir(members));) {
        if (strcmp(member->d_name, ".") == 0 || strcmp(member->d_name, "..") == 0)
            continue;
        size_t room = sizeof(state.path) - length;
        errno = ENAMETOOLONG;
        if ((size_t)snprintf(state.path + length, room, "/%s", member->d_name) >= room)
            result = fail(AGENT_STEP_READ);
        else
            result = pack_member(dirfd(members), member->d_name);
        state.path[length] = '\0';
    }
    if (result == 0 && errno)
        result = fail(AGENT_STEP_READ);
    closedir(members);
    return result;
}

static int pack_all(int base, const char *path)
{
    struct stat status;
    int fd = open_below(base, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) < 0)
        return fail(AGENT_STEP_OPEN);
    snprintf(state.path, sizeof(state.path), ".");
    if (S_ISDIR(status.st_mode))
        return pack_folder(fd, &status);
    errno = EINVAL;
    if (!S_ISREG(status.st_mode))
        return fail(AGENT_STEP_OPEN);
    return write_header(&status, TAR_FILE) < 0 ? -1 : pack_content(fd);
}

struct outcome pack(const struct request *request)
{
    static char path[TAR_MAX_PATH];
    static const char zeros[2 * TAR_BLOCK];
    const struct rlimit limit = {MAX_OPEN, MAX_OPEN};
    setrlimit(RLIMIT_NOFILE, &limit); /* one for each folder on the way down */
    state.request = request;
    int base = open_root(request->path, path, sizeof(path));
    if (base < 0)
        return failed(AGENT_STEP_OPEN, request->path);
    snprintf(state.path, sizeof(state.path), "%s", request->path);
    if (pack_all(base, path) < 0 || (BUFFER - state.used < sizeof(zeros) && flush() < 0))
        return state.outcome;
    memcpy(state.buffer + state.used, zeros, sizeof(zeros));
    state.used += sizeof(zeros);
    flush();
    return state.outcome;
}
