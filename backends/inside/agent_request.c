#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent_decode.h"

enum { IN_EXEC = 1, IN_FILES = 2, IN_MOUNT = 4, IN_HIDE = 8, IN_CONTAINER = 16 };
enum shape { SHAPE_NONE, SHAPE_FIXED, SHAPE_TEXT, SHAPE_BYTES };

/* Which requests know a tag, what its payload looks like, and how often it may and must come. */
static const struct rule {
    unsigned char requests, shape;
    uint16_t length;
    uint32_t at_most, at_least;
} RULES[AGENT_TAG_COUNT] = {
    [AGENT_TAG_ARG] = {IN_EXEC, SHAPE_TEXT, 0, UINT32_MAX, 1},
    [AGENT_TAG_ENV] = {IN_EXEC, SHAPE_TEXT, 0, UINT32_MAX, 0},
    [AGENT_TAG_CWD] = {IN_EXEC, SHAPE_TEXT, 0, 1, 1},
    [AGENT_TAG_USER] = {IN_EXEC, SHAPE_FIXED, sizeof(struct agent_user), 1, 1},
    [AGENT_TAG_RLIMIT] = {IN_EXEC, SHAPE_FIXED, sizeof(struct agent_rlimit), AGENT_MAX_RLIMITS, 0},
    [AGENT_TAG_UMASK] = {IN_EXEC, SHAPE_FIXED, 4, 1, 1},
    [AGENT_TAG_TTY] = {IN_EXEC, SHAPE_FIXED, sizeof(struct agent_size), 1, 0},
    [AGENT_TAG_NO_INPUT] = {IN_EXEC, SHAPE_FIXED, 0, 1, 0},
    [AGENT_TAG_TIMEOUT] = {IN_EXEC, SHAPE_FIXED, sizeof(struct agent_timeout), 1, 0},
    [AGENT_TAG_ZYGOTE] = {IN_EXEC, SHAPE_TEXT, 0, 1, 0},
    [AGENT_TAG_SECCOMP] = {IN_EXEC, SHAPE_BYTES, 8, 1, 0},
    [AGENT_TAG_CGROUP] = {IN_EXEC | IN_CONTAINER, SHAPE_TEXT, 0, AGENT_MAX_CGROUP_FILES, 0},
    [AGENT_TAG_PRIVILEGED] = {IN_EXEC, SHAPE_FIXED, 0, 1, 0},
    [AGENT_TAG_PORT] = {IN_EXEC, SHAPE_FIXED, 4, 1, 0},
    [AGENT_TAG_PATH] = {IN_FILES | IN_MOUNT, SHAPE_TEXT, 0, 1, 1},
    [AGENT_TAG_OWNER] = {IN_FILES, SHAPE_FIXED, sizeof(struct agent_user), 1, 0},
    [AGENT_TAG_AT_MOST] = {IN_FILES, SHAPE_FIXED, sizeof(struct agent_at_most), 1, 1},
    [AGENT_TAG_REPLACE] = {IN_FILES, SHAPE_FIXED, 0, 1, 0},
    [AGENT_TAG_SOURCE] = {IN_MOUNT | IN_CONTAINER, SHAPE_TEXT, 0, 1, 0},
    [AGENT_TAG_FILE_SYSTEM] = {IN_MOUNT | IN_CONTAINER, SHAPE_TEXT, 0, 1, 0},
    [AGENT_TAG_MOUNT_FLAGS] = {IN_MOUNT | IN_CONTAINER, SHAPE_FIXED, 4, 1, 1},
    [AGENT_TAG_SIZE] = {IN_MOUNT | IN_CONTAINER, SHAPE_FIXED, 8, 1, 0},
    [AGENT_TAG_HIDDEN] = {IN_HIDE, SHAPE_TEXT, 0, UINT32_MAX, 1},
    [AGENT_TAG_UPPER] = {IN_CONTAINER, SHAPE_TEXT, 0, 1, 0},
    [AGENT_TAG_HOSTNAME] = {IN_CONTAINER, SHAPE_TEXT, 0, 1, 1},
    [AGENT_TAG_OWN_NETWORK] = {IN_CONTAINER, SHAPE_FIXED, 0, 1, 0},
};

static int requests_of(uint32_t kind)
{
    if (kind == AGENT_EXEC)
        return IN_EXEC;
    if (kind == AGENT_HIDE)
        return IN_HIDE;
    if (kind == AGENT_CONTAINER)
        return IN_CONTAINER;
    return kind == AGENT_MOUNT ? IN_MOUNT : IN_FILES;
}

static int check_payload(const struct rule *rule, const char *payload, uint32_t length)
{
    switch (rule->shape) {
    case SHAPE_FIXED:
        return length == rule->length ? 0 : EINVAL;
    case SHAPE_TEXT:
        return length > 0 && strnlen(payload, length) == length - 1 ? 0 : EINVAL;
    default:
        return length > 0 && length % rule->length == 0 && length <= AGENT_MAX_FILTER ? 0 : EINVAL;
    }
}

/* The record at `*offset`, within bounds and of a known shape; moves past it. */
static int next_record(int requests, char *bytes, size_t size, size_t *offset, struct agent_record *record,
                       char **payload)
{
    if (size - *offset < sizeof(*record))
        return EMSGSIZE;
    memcpy(record, bytes + *offset, sizeof(*record));
    *offset += sizeof(*record);
    if (record->length > size - *offset)
        return EMSGSIZE;
    if (record->tag >= AGENT_TAG_COUNT || !(RULES[record->tag].requests & requests))
        return EPROTO;
    *payload = bytes + *offset;
    *offset += record->length;
    return check_payload(&RULES[record->tag], *payload, record->length);
}

static int count_records(int requests, char *bytes, size_t size, struct request *request)
{
    size_t offset = 0;
    while (offset < size) {
        struct agent_record record;
        char *payload;
        int error = next_record(requests, bytes, size, &offset, &record, &payload);
        if (!error && request->count[record.tag]++ >= RULES[record.tag].at_most)
            error = EINVAL;
        if (error)
            return error;
    }
    for (int tag = 0; tag < AGENT_TAG_COUNT; tag++)
        if ((RULES[tag].requests & requests) && request->count[tag] < RULES[tag].at_least)
            return EINVAL;
    return 0;
}

static void take_text(struct request *request, uint32_t tag, uint32_t index, char *text)
{
    switch (tag) {
    case AGENT_TAG_ARG:
        request->argv[index] = text;
        break;
    case AGENT_TAG_ENV:
        request->env[index] = text;
        break;
    case AGENT_TAG_CWD:
        request->cwd = text;
        break;
    case AGENT_TAG_ZYGOTE:
        request->source_text = text;
        break;
    case AGENT_TAG_CGROUP:
        request->cgroup[index] = text;
        break;
    case AGENT_TAG_PATH:
        request->path = text;
        break;
    case AGENT_TAG_HIDDEN:
        request->hidden[index] = text;
        break;
    case AGENT_TAG_SOURCE:
        request->source = text;
        break;
    case AGENT_TAG_UPPER:
        request->upper = text;
        break;
    case AGENT_TAG_HOSTNAME:
        request->hostname = text;
        break;
    default:
        request->file_system = text;
        break;
    }
}

/* Where a payload of fixed size goes; NULL for one that says everything by being there. */
static void *place_of(struct request *request, uint32_t tag, uint32_t index)
{
    switch (tag) {
    case AGENT_TAG_USER:
        return &request->user;
    case AGENT_TAG_OWNER:
        return &request->owner;
    case AGENT_TAG_RLIMIT:
        return &request->rlimits[index];
    case AGENT_TAG_UMASK:
        return &request->umask;
    case AGENT_TAG_TTY:
        return &request->tty;
    case AGENT_TAG_TIMEOUT:
        return &request->timeout;
    case AGENT_TAG_AT_MOST:
        return &request->at_most;
    case AGENT_TAG_PORT:
        return &request->port;
    case AGENT_TAG_MOUNT_FLAGS:
        return &request->mount_flags;
    case AGENT_TAG_SIZE:
        return &request->size;
    default:
        return NULL;
    }
}

static int take_record(struct request *request, const struct agent_record *record, uint32_t index, char *payload)
{
    if (RULES[record->tag].shape == SHAPE_TEXT) {
        take_text(request, record->tag, index, payload);
        int assigns = record->tag == AGENT_TAG_ENV || record->tag == AGENT_TAG_CGROUP;
        return assigns && !strchr(payload, '=') ? EINVAL : 0;
    }
    if (RULES[record->tag].shape == SHAPE_BYTES) {
        request->filter = (unsigned char *)payload;
        request->filter_bytes = record->length;
        return 0;
    }
    void *place = place_of(request, record->tag, index);
    if (place)
        memcpy(place, payload, record->length);
    return 0;
}

int request_parse(uint32_t kind, char *bytes, size_t size, struct request *request)
{
    memset(request, 0, sizeof(*request));
    int requests = requests_of(kind);
    int error = count_records(requests, bytes, size, request);
    if (error)
        return error;
    request->argv = calloc((size_t)request->count[AGENT_TAG_ARG] + 1, sizeof(char *));
    request->env = calloc((size_t)request->count[AGENT_TAG_ENV] + 1, sizeof(char *));
    request->hidden = calloc((size_t)request->count[AGENT_TAG_HIDDEN] + 1, sizeof(char *));
    if (!request->argv || !request->env || !request->hidden)
        return ENOMEM;
    uint32_t seen[AGENT_TAG_COUNT] = {0};
    size_t offset = 0;
    while (!error && offset < size) {
        struct agent_record record;
        char *payload;
        error = next_record(requests, bytes, size, &offset, &record, &payload);
        if (!error)
            error = take_record(request, &record, seen[record.tag]++, payload);
    }
    return error;
}

void request_free(struct request *request)
{
    free(request->argv);
    free(request->env);
    free(request->hidden);
    request->argv = request->env = request->hidden = NULL;
}
