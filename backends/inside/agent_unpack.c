/* A PUT: an archive from standard input, unpacked below a path. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "agent_below.h"
#include "agent_tar.h"

enum { MAX_DEPTH = TAR_MAX_PATH / 2, BUFFER = 65536, TRIES = 3 };

/* A folder gets its time when everything in it was put: until then it stands here, below those that hold it. */
struct open_folder {
    size_t length; /* of its path, which is the beginning of that of the deepest one */
    struct timespec mtime;
};

struct unpacking {
    const struct request *request;
    struct owner owner;
    int base, top, has_owner, replace; /* "/", and the folder of the archive's own root (-1: not known yet) */
    char path[TAR_MAX_PATH]; /* the target's, from "/" */
    struct outcome outcome;
    struct tar_extended extended;
    struct tar_entry entry;
    struct open_folder folders[MAX_DEPTH];
    size_t folder_count;
    char folder_path[TAR_MAX_PATH];
    char buffer[BUFFER];
};

static int fail(struct unpacking *state, enum agent_step step, const char *subject)
{
    uint64_t bytes = state->outcome.bytes, entries = state->outcome.entries;
    state->outcome = failed(step, subject);
    state->outcome.bytes = bytes;
    state->outcome.entries = entries;
    return -1;
}

/* -1: the archive has ended too early. */
static int read_all(struct unpacking *state, char *place, size_t size)
{
    while (size > 0) {
        ssize_t got = read(STDIN_FILENO, place, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got < 0 ? errno : EPIPE;
            return fail(state, AGENT_STEP_ARCHIVE, "");
        }
        place += got;
        size -= (size_t)got;
    }
    return 0;
}

static const struct owner *maker(const struct unpacking *state)
{
    return state->has_owner ? &state->owner : NULL;
}

static struct owner owner_of(const struct unpacking *state)
{
    return state->has_owner ? state->owner : (struct owner){state->entry.uid, state->entry.gid};
}

static const char *shown(const struct unpacking *state)
{
    return *state->entry.path ? state->entry.path : state->path;
}

/* The folder of the root, which the first entry that needs one makes. */
static int open_top(struct unpacking *state)
{
    if (state->top < 0)
        state->top = make_below(state->base, state->path, maker(state));
    return state->top < 0 ? fail(state, AGENT_STEP_OPEN, state->path) : 0;
}

/* The folder that holds the entry, and its name there. The root itself is a name in the folder above it. */
static int open_parent(struct unpacking *state, const char **name)
{
    int parent;
    if (*state->entry.path == '\0')
        parent = make_parent(state->base, state->path, maker(state), name);
    else if (open_top(state) < 0)
        return -1;
    else
        parent = make_parent(state->top, state->entry.path, maker(state), name);
    if (parent >= 0 && **name == '\0') {
        close(parent);
        parent = -1;
        errno = EISDIR;
    }
    return parent < 0 ? fail(state, AGENT_STEP_OPEN, shown(state)) : parent;
}

/* What is in the way of a file goes when that was asked for; a folder never does. */
static int make_way(const struct unpacking *state, int parent, const char *name)
{
    if (errno != EEXIST || !state->replace)
        return -1;
    return unlinkat(parent, name, 0) < 0 && errno != ENOENT ? -1 : 0;
}

static int make_file(struct unpacking *state, int parent, const char *name)
{
    int fd = -1;
    for (int turn = 0; fd < 0 && turn < TRIES; turn++) {
        fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0 && make_way(state, parent, name) < 0)
            break;
    }
    return fd;
}

static struct timespec modified(const struct tar_entry *entry)
{
    return (struct timespec){(time_t)entry->mtime, (long)entry->mtime_ns};
}

static int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t put = write(fd, bytes, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return -1;
        bytes += put;
        size -= (size_t)put;
    }
    return 0;
}

static int put_content(struct unpacking *state, int fd)
{
    for (uint64_t left = state->entry.size; left > 0;) {
        size_t piece = left < BUFFER ? (size_t)left : BUFFER;
        size_t padded = (piece + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
        if (read_all(state, state->buffer, padded) < 0)
            return -1;
        if (write_all(fd, state->buffer, piece) < 0)
            return fail(state, AGENT_STEP_WRITE, shown(state));
        left -= piece;
    }
    struct timespec times[] = {modified(&state->entry), modified(&state->entry)};
    struct owner owner = owner_of(state);
    if (fchown(fd, owner.uid, owner.gid) < 0 || fchmod(fd, state->entry.mode & 0777) < 0 || futimens(fd, times) < 0)
        return fail(state, AGENT_STEP_WRITE, shown(state));
    return 0;
}

static int put_file(struct unpacking *state, int parent, const char *name)
{
    int fd = make_file(state, parent, name);
    if (fd < 0)
        return fail(state, AGENT_STEP_WRITE, shown(state));
    int result = put_content(state, fd);
    close(fd);
    return result;
}

static int put_symlink(struct unpacking *state, int parent, const char *name)
{
    int made = -1;
    for (int turn = 0; made < 0 && turn < TRIES; turn++) {
        made = symlinkat(state->entry.link, parent, name);
        if (made < 0 && make_way(state, parent, name) < 0)
            break;
    }
    struct timespec times[] = {modified(&state->entry), modified(&state->entry)};
    struct owner owner = owner_of(state);
    if (made < 0 || fchownat(parent, name, owner.uid, owner.gid, AT_SYMLINK_NOFOLLOW) < 0 ||
        utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        return fail(state, AGENT_STEP_WRITE, shown(state));
    return 0;
}

/* To an entry of the archive's own tree. */
static int put_link(struct unpacking *state, int parent, const char *name)
{
    if (open_top(state) < 0)
        return -1;
    int target = open_below(state->top, state->entry.link, O_PATH | O_NOFOLLOW), made = -1;
    if (target < 0)
        return fail(state, AGENT_STEP_WRITE, state->entry.link);
    for (int turn = 0; made < 0 && turn < TRIES; turn++) {
        made = linkat(target, "", parent, name, AT_EMPTY_PATH);
        if (made < 0 && make_way(state, parent, name) < 0)
            break;
    }
    close(target);
    return made < 0 ? fail(state, AGENT_STEP_WRITE, shown(state)) : 0;
}

static void set_time(const struct unpacking *state, const char *path, struct timespec mtime)
{
    struct timespec times[] = {mtime, mtime};
    int fd = open_below(state->top, path, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return; /* somebody has taken it away: then it has no time either */
    futimens(fd, times);
    close(fd);
}

static int is_below(const char *path, const char *folder, size_t length)
{
    return length == 0 || (strncmp(path, folder, length) == 0 && path[length] == '/');
}

/* Times for the folders that are complete: those that the next entry (NULL: none) is not in. */
static void leave_folders(struct unpacking *state, const char *next)
{
    while (state->folder_count > 0) {
        struct open_folder *deepest = &state->folders[state->folder_count - 1];
        if (next && is_below(next, state->folder_path, deepest->length))
            return;
        state->folder_path[deepest->length] = '\0';
        set_time(state, state->folder_path, deepest->mtime);
        state->folder_count--;
    }
}

static void enter_folder(struct unpacking *state)
{
    size_t length = strlen(state->entry.path);
    if (state->folder_count == MAX_DEPTH)
        return;
    memcpy(state->folder_path, state->entry.path, length + 1);
    state->folders[state->folder_count++] = (struct open_folder){length, modified(&state->entry)};
}

/* One that is there already is taken as it is, unless what is there may be replaced. */
static int put_folder(struct unpacking *state, int parent, const char *name)
{
    int made = mkdirat(parent, name, 0700);
    if (made < 0 && errno != EEXIST)
        return fail(state, AGENT_STEP_WRITE, shown(state));
    int fd = open_below(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd < 0)
        return fail(state, AGENT_STEP_WRITE, shown(state));
    struct owner owner = owner_of(state);
    int result = 0;
    if (made == 0 || state->replace) {
        if (fchown(fd, owner.uid, owner.gid) < 0 || fchmod(fd, state->entry.mode & 01777) < 0)
            result = fail(state, AGENT_STEP_WRITE, shown(state));
        enter_folder(state);
    }
    close(fd);
    return result < 0 ? -1 : open_top(state);
}

static int count(struct unpacking *state)
{
    const struct agent_at_most *most = &state->request->at_most;
    errno = EFBIG;
    if (state->outcome.entries >= most->entries || state->entry.size > most->bytes - state->outcome.bytes)
        return fail(state, AGENT_STEP_TOO_MUCH, shown(state));
    state->outcome.entries++;
    state->outcome.bytes += state->entry.size;
    return 0;
}

static int put_entry(struct unpacking *state)
{
    const char *name;
    if (count(state) < 0)
        return -1;
    leave_folders(state, state->entry.path);
    int is_root = *state->entry.path == '\0';
    if (is_root && state->entry.type == TAR_FOLDER && *state->path == '\0')
        return open_top(state); /* "/" itself stays what it is */
    int parent = open_parent(state, &name), result;
    if (parent < 0)
        return -1;
    if (state->entry.type == TAR_FOLDER)
        result = put_folder(state, parent, name);
    else if (state->entry.type == TAR_SYMLINK)
        result = put_symlink(state, parent, name);
    else if (state->entry.type == TAR_LINK)
        result = put_link(state, parent, name);
    else
        result = put_file(state, parent, name);
    close(parent);
    return result;
}

static int take_extended(struct unpacking *state)
{
    size_t padded = ((size_t)state->entry.size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    if (read_all(state, state->buffer, padded) < 0)
        return -1;
    if (state->entry.type == TAR_EXTENDED &&
        tar_read_extended(state->buffer, (size_t)state->entry.size, &state->extended) < 0)
        return fail(state, AGENT_STEP_ARCHIVE, "");
    return 0;
}

/* 1: go on; 0: that was all; -1: failed. */
static int next_entry(struct unpacking *state)
{
    char block[TAR_BLOCK];
    if (read_all(state, block, sizeof(block)) < 0)
        return -1;
    int got = tar_read(block, &state->extended, &state->entry);
    if (got < 0)
        return fail(state, AGENT_STEP_ARCHIVE, state->entry.path);
    if (got == 0)
        return 0;
    int is_about_another = state->entry.type == TAR_EXTENDED || state->entry.type == TAR_GLOBAL;
    return (is_about_another ? take_extended(state) : put_entry(state)) < 0 ? -1 : 1;
}

struct outcome unpack(const struct request *request)
{
    struct unpacking *state = calloc(1, sizeof(*state));
    if (!state)
        return failed(AGENT_STEP_OPEN, request->path);
    state->request = request;
    state->top = -1;
    state->has_owner = request->count[AGENT_TAG_OWNER] > 0;
    state->owner = (struct owner){request->owner.uid, request->owner.gid};
    state->replace = request->count[AGENT_TAG_REPLACE] > 0;
    state->base = open_root(request->path, state->path, sizeof(state->path));
    if (state->base < 0)
        return failed(AGENT_STEP_OPEN, request->path);
    int got;
    while ((got = next_entry(state)) > 0)
        ;
    if (got < 0)
        return state->outcome;
    leave_folders(state, NULL);
    if (state->outcome.entries == 0 && open_top(state) < 0)
        return state->outcome;
    while (read(STDIN_FILENO, state->buffer, BUFFER) > 0)
        ; /* the rest of the last record */
    return state->outcome;
}
