#define _GNU_SOURCE
#include "spec.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IN_OUTSIDE = 1, IN_INSIDE = 2, IN_BOTH = 3 };
enum shape { SHAPE_NONE, SHAPE_FIXED, SHAPE_TEXT, SHAPE_PREFIXED_TEXT, SHAPE_BYTES };

/* Which modes know a tag, what its payload looks like (`length`: exactly, or of the part before the text), and
 * how often it may and must come. */
static const struct rule {
    unsigned char modes;
    unsigned char shape;
    uint16_t length;
    uint32_t at_most, at_least;
} RULES[TAG_COUNT] = {
    [TAG_PARENT] = {IN_OUTSIDE, SHAPE_FIXED, 4, 1, 1},
    [TAG_CONTROL] = {IN_BOTH, SHAPE_FIXED, 4, 1, 1},
    [TAG_CGROUP] = {IN_OUTSIDE, SHAPE_FIXED, 4, MAX_CGROUPS, 0},
    [TAG_STAGE] = {IN_OUTSIDE, SHAPE_TEXT, 0, 1, 0},
    [TAG_MOUNT] = {IN_OUTSIDE, SHAPE_FIXED, sizeof(struct wire_mount), MAX_MOUNTS, 0},
    [TAG_IDENTITY] = {IN_OUTSIDE, SHAPE_FIXED, 8, 1, 0},
    [TAG_KEEP] = {IN_OUTSIDE, SHAPE_FIXED, 4, MAX_KEEP, 0},
    [TAG_ARG] = {IN_BOTH, SHAPE_TEXT, 0, UINT32_MAX, 1},
    [TAG_ENV] = {IN_INSIDE, SHAPE_TEXT, 0, UINT32_MAX, 0},
    [TAG_ROOT] = {IN_OUTSIDE, SHAPE_FIXED, sizeof(struct wire_root), 1, 0},
    [TAG_ENTRY] = {IN_OUTSIDE, SHAPE_PREFIXED_TEXT, sizeof(struct wire_entry), MAX_ENTRIES, 0},
    [TAG_CONTENT] = {IN_OUTSIDE, SHAPE_TEXT, 0, MAX_ENTRIES, 0},
    [TAG_HIDDEN] = {IN_OUTSIDE, SHAPE_TEXT, 0, MAX_ENTRIES, 0},
    [TAG_USERS] = {IN_OUTSIDE, SHAPE_FIXED, sizeof(struct wire_ids), MAX_IDS, 0},
    [TAG_MAPPER] = {IN_OUTSIDE, SHAPE_TEXT, 0, 2, 0},
    [TAG_HOLD] = {IN_INSIDE, SHAPE_FIXED, 4, MAX_HOLD, 0},
    [TAG_GIVE] = {IN_INSIDE, SHAPE_FIXED, 4, MAX_GIVE, 0},
    [TAG_STDERR] = {IN_INSIDE, SHAPE_FIXED, 4, 1, 0},
    [TAG_TTY] = {IN_INSIDE, SHAPE_FIXED, 0, 1, 0},
    [TAG_UMASK] = {IN_INSIDE, SHAPE_FIXED, 4, 1, 1},
    [TAG_CWD] = {IN_INSIDE, SHAPE_TEXT, 0, 1, 1},
    [TAG_RLIMIT] = {IN_INSIDE, SHAPE_FIXED, sizeof(struct wire_rlimit), MAX_RLIMITS, 0},
    [TAG_LANDLOCK] = {IN_INSIDE, SHAPE_FIXED, sizeof(struct wire_landlock), 1, 0},
    [TAG_LANDLOCK_PATH] = {IN_INSIDE, SHAPE_PREFIXED_TEXT, sizeof(struct wire_landlock_path), MAX_RULES, 0},
    [TAG_SECCOMP] = {IN_INSIDE, SHAPE_BYTES, 8, 1, 0},
    [TAG_OWNER] = {IN_INSIDE, SHAPE_FIXED, 4, MAX_OWNERS, 0},
    [TAG_MASK] = {IN_INSIDE, SHAPE_PREFIXED_TEXT, sizeof(struct wire_mask), MAX_MASKS, 0},
    [TAG_GUARD] = {IN_INSIDE, SHAPE_TEXT, 0, MAX_GUARDS, 0},
    [TAG_USER] = {IN_INSIDE, SHAPE_FIXED, 8, 1, 0},
    [TAG_UNSTOPPED] = {IN_INSIDE, SHAPE_FIXED, 0, 1, 0},
    [TAG_IN_USERS] = {IN_OUTSIDE, SHAPE_FIXED, 4, 1, 0},
    [TAG_IN_NETWORK] = {IN_OUTSIDE, SHAPE_FIXED, 4, 1, 0},
};

enum { MAX_FILTER = 4096 * 8 };

static int is_text(const char *text, size_t length)
{
    return length > 0 && strnlen(text, length) == length - 1;
}

static int check_payload(const struct rule *rule, const char *payload, uint32_t length)
{
    switch (rule->shape) {
    case SHAPE_FIXED:
        return length == rule->length ? 0 : EINVAL;
    case SHAPE_TEXT:
        return is_text(payload, length) ? 0 : EINVAL;
    case SHAPE_PREFIXED_TEXT:
        return length > rule->length && is_text(payload + rule->length, length - rule->length) ? 0 : EINVAL;
    case SHAPE_BYTES:
        return length > 0 && length % rule->length == 0 && length <= MAX_FILTER ? 0 : EINVAL;
    default:
        return EINVAL;
    }
}

static int read_fd(const char *payload, int *fd)
{
    uint32_t number;
    memcpy(&number, payload, sizeof(number));
    if (number > INT_MAX)
        return EBADF;
    *fd = (int)number;
    return 0;
}

static int check_header(const struct spec *spec)
{
    struct wire_header header;
    if (spec->size < sizeof(header) || spec->size > WIRE_MAX_SPEC)
        return EMSGSIZE;
    memcpy(&header, spec->buffer, sizeof(header));
    if (header.magic != WIRE_MAGIC || header.version != WIRE_VERSION || header.mode != (uint32_t)spec->mode)
        return EPROTO;
    return header.size == spec->size ? 0 : EMSGSIZE;
}

/* The record at `*offset`, within bounds and of a known shape; moves past it. */
static int next_record(struct spec *spec, size_t *offset, uint32_t *tag, char **payload, uint32_t *length)
{
    struct wire_record record;
    if (spec->size - *offset < sizeof(record))
        return EMSGSIZE;
    memcpy(&record, spec->buffer + *offset, sizeof(record));
    *offset += sizeof(record);
    if (record.length > spec->size - *offset)
        return EMSGSIZE;
    if (record.tag >= TAG_COUNT || !(RULES[record.tag].modes & spec->mode))
        return EPROTO;
    *tag = record.tag;
    *payload = spec->buffer + *offset;
    *length = record.length;
    *offset += record.length;
    return check_payload(&RULES[record.tag], *payload, record.length);
}

/* First pass: every record is well formed, none comes too often; the control socket is found. */
static int count_records(struct spec *spec)
{
    size_t offset = sizeof(struct wire_header);
    while (offset < spec->size) {
        uint32_t tag, length;
        char *payload;
        int error = next_record(spec, &offset, &tag, &payload, &length);
        if (!error && spec->count[tag]++ >= RULES[tag].at_most)
            error = EINVAL;
        if (!error && tag == TAG_CONTROL)
            error = read_fd(payload, &spec->control);
        if (error)
            return error;
    }
    for (int tag = 0; tag < TAG_COUNT; tag++)
        if ((RULES[tag].modes & spec->mode) && spec->count[tag] < RULES[tag].at_least)
            return EINVAL;
    if ((spec->count[TAG_MOUNT] || spec->count[TAG_ROOT]) && !spec->count[TAG_STAGE])
        return EINVAL;
    if (spec->count[TAG_ENTRY] != spec->count[TAG_CONTENT])
        return EINVAL;
    if ((spec->count[TAG_ENTRY] || spec->count[TAG_HIDDEN]) && !spec->count[TAG_ROOT])
        return EINVAL;
    if (spec->count[TAG_MAPPER] != (spec->count[TAG_USERS] ? 2 : 0))
        return EINVAL;
    return spec->count[TAG_LANDLOCK_PATH] && !spec->count[TAG_LANDLOCK] ? EINVAL : 0;
}

static int allocate(struct spec *spec)
{
    spec->argv = calloc((size_t)spec->count[TAG_ARG] + 1, sizeof(char *));
    spec->env = calloc((size_t)spec->count[TAG_ENV] + 1, sizeof(char *));
    spec->mounts = calloc((size_t)spec->count[TAG_MOUNT] + 1, sizeof(*spec->mounts));
    spec->rules = calloc((size_t)spec->count[TAG_LANDLOCK_PATH] + 1, sizeof(*spec->rules));
    spec->masks = calloc((size_t)spec->count[TAG_MASK] + 1, sizeof(*spec->masks));
    spec->guards = calloc((size_t)spec->count[TAG_GUARD] + 1, sizeof(char *));
    spec->entries = calloc((size_t)spec->count[TAG_ENTRY] + 1, sizeof(*spec->entries));
    spec->hidden = calloc((size_t)spec->count[TAG_HIDDEN] + 1, sizeof(char *));
    return spec->argv && spec->env && spec->mounts && spec->rules && spec->masks && spec->guards && spec->entries &&
                   spec->hidden
               ? 0
               : ENOMEM;
}

static uint32_t read_u32(const char *payload)
{
    uint32_t number;
    memcpy(&number, payload, sizeof(number));
    return number;
}

static void take_rule(struct landlock_path *rule, char *payload)
{
    struct wire_landlock_path head;
    memcpy(&head, payload, sizeof(head));
    *rule = (struct landlock_path){head.access, head.optional, payload + sizeof(head)};
}

/* Store the `index`-th record of its tag: what only the outside has, … */
static int take_outside(struct spec *spec, uint32_t tag, uint32_t index, char *payload)
{
    switch (tag) {
    case TAG_PARENT:
        spec->parent = (pid_t)read_u32(payload);
        return 0;
    case TAG_CGROUP:
        return read_fd(payload, &spec->cgroups[index]);
    case TAG_STAGE:
        spec->stage = payload;
        return 0;
    case TAG_MOUNT:
        memcpy(&spec->mounts[index], payload, sizeof(*spec->mounts));
        return spec->mounts[index].fd > INT_MAX ? EBADF : 0;
    case TAG_IDENTITY:
        spec->uid = read_u32(payload);
        spec->gid = read_u32(payload + 4);
        return 0;
    case TAG_KEEP:
        return read_fd(payload, &spec->keep[index]);
    case TAG_USERS:
        memcpy(&spec->users[index], payload, sizeof(*spec->users));
        return 0;
    case TAG_MAPPER:
        spec->mappers[index] = payload;
        return 0;
    case TAG_ROOT:
        memcpy(&spec->root, payload, sizeof(spec->root));
        return spec->root.image > INT_MAX ? EBADF : 0;
    case TAG_ENTRY:
        spec->entries[index].mode = read_u32(payload);
        spec->entries[index].path = payload + sizeof(struct wire_entry);
        return 0;
    case TAG_CONTENT:
        spec->entries[index].content = payload;
        return 0;
    case TAG_HIDDEN:
        spec->hidden[index] = payload;
        return 0;
    case TAG_IN_USERS:
        return read_fd(payload, &spec->in_users);
    case TAG_IN_NETWORK:
        return read_fd(payload, &spec->in_network);
    default:
        return 0;
    }
}

/* … and what the inside has. */
static int take_record(struct spec *spec, uint32_t tag, uint32_t index, char *payload, uint32_t length)
{
    switch (tag) {
    case TAG_ARG:
        spec->argv[index] = payload;
        return 0;
    case TAG_ENV:
        spec->env[index] = payload;
        return strchr(payload, '=') ? 0 : EINVAL;
    case TAG_HOLD:
        return read_fd(payload, &spec->hold[index]);
    case TAG_GIVE:
        return read_fd(payload, &spec->give[index]);
    case TAG_STDERR:
        return read_fd(payload, &spec->stderr_fd);
    case TAG_OWNER:
        return read_fd(payload, &spec->owners[index]);
    case TAG_USER:
        spec->uid = read_u32(payload);
        spec->gid = read_u32(payload + 4);
        return 0;
    case TAG_UMASK:
        spec->umask = read_u32(payload) & 0777;
        return 0;
    case TAG_CWD:
        spec->cwd = payload;
        return 0;
    case TAG_RLIMIT:
        memcpy(&spec->rlimits[index], payload, sizeof(*spec->rlimits));
        return 0;
    case TAG_LANDLOCK:
        memcpy(&spec->landlock, payload, sizeof(spec->landlock));
        return 0;
    case TAG_LANDLOCK_PATH:
        take_rule(&spec->rules[index], payload);
        return 0;
    case TAG_SECCOMP:
        spec->filter = (unsigned char *)payload;
        spec->filter_bytes = length;
        return 0;
    case TAG_GUARD:
        spec->guards[index] = payload;
        return 0;
    case TAG_MASK:
        spec->masks[index].path = payload + sizeof(struct wire_mask);
        return read_fd(payload, &spec->masks[index].fd);
    default:
        return take_outside(spec, tag, index, payload);
    }
}

int spec_parse(char *buffer, size_t size, enum wire_mode mode, struct spec *spec)
{
    memset(spec, 0, sizeof(*spec));
    *spec = (struct spec){.buffer = buffer, .size = size, .mode = mode, .control = -1, .stderr_fd = -1};
    spec->in_users = spec->in_network = -1;
    int error = check_header(spec);
    if (!error)
        error = count_records(spec);
    if (!error)
        error = allocate(spec);
    uint32_t seen[TAG_COUNT] = {0};
    size_t offset = sizeof(struct wire_header);
    while (!error && offset < size) {
        uint32_t tag, length;
        char *payload;
        error = next_record(spec, &offset, &tag, &payload, &length);
        if (!error)
            error = take_record(spec, tag, seen[tag]++, payload, length);
    }
    return error;
}

int spec_read(int fd, enum wire_mode mode, struct spec *spec)
{
    memset(spec, 0, sizeof(*spec));
    spec->control = -1;
    struct stat status;
    if (fstat(fd, &status) < 0)
        return errno;
    if (status.st_size < 0 || status.st_size > (off_t)WIRE_MAX_SPEC)
        return EMSGSIZE;
    size_t size = (size_t)status.st_size, done = 0;
    char *buffer = malloc(size + 1);
    if (!buffer)
        return ENOMEM;
    while (done < size) {
        ssize_t got = pread(fd, buffer + done, size - done, (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            free(buffer);
            return got < 0 ? errno : EMSGSIZE;
        }
        done += (size_t)got;
    }
    close(fd);
    return spec_parse(buffer, size, mode, spec);
}

void spec_wipe(struct spec *spec)
{
    if (spec->buffer)
        explicit_bzero(spec->buffer, spec->size);
    free(spec->buffer);
    free(spec->argv);
    free(spec->env);
    free(spec->mounts);
    free(spec->rules);
    free(spec->masks);
    free(spec->guards);
    free(spec->entries);
    free(spec->hidden);
    spec->buffer = NULL;
    spec->argv = spec->env = NULL;
    spec->mounts = NULL;
    spec->rules = NULL;
    spec->masks = NULL;
    spec->guards = NULL;
    spec->entries = NULL;
    spec->hidden = NULL;
}
