/* Bytes from the host, taken apart: no system calls, nothing but memory. */
#ifndef MXC_AGENT_DECODE_H
#define MXC_AGENT_DECODE_H

#include <stddef.h>

#include "agent_wire.h"

enum { AGENT_MAX_RLIMITS = 16, AGENT_MAX_CGROUP_FILES = 64, AGENT_MAX_FILTER = 4096 * 8 };

struct frame {
    uint32_t kind, flags, stream;
    size_t length;
    char *payload;
};

enum { AGENT_MAX_FRAME = sizeof(struct agent_frame) + AGENT_MAX_PAYLOAD };

/* What has come and was not taken yet. It is moved to the front only where a frame has no room any more: the
 * more room there is, the less often. */
struct decoder {
    size_t start, end;
    char bytes[4 * AGENT_MAX_FRAME];
};

/* Where the next bytes go, `*room` of them at most, never 0 once every whole frame was taken. */
char *decoder_space(struct decoder *decoder, size_t *room);

/* 1: a frame, whose payload is good until the next call; 0: not whole yet; -1: no such frame may come. */
int decoder_next(struct decoder *decoder, struct frame *frame);

/* A message of records. Strings point into the buffer that was parsed. */
struct request {
    uint32_t count[AGENT_TAG_COUNT];
    char **argv, **env, **hidden;
    char *cwd, *source_text, *path, *source, *file_system, *upper, *hostname;
    struct agent_user user, owner;
    struct agent_rlimit rlimits[AGENT_MAX_RLIMITS];
    char *cgroup[AGENT_MAX_CGROUP_FILES];
    uint32_t umask, mount_flags, port;
    struct agent_size tty;
    struct agent_timeout timeout;
    unsigned char *filter;
    size_t filter_bytes;
    struct agent_at_most at_most;
    uint64_t size;
};

/* The records of an EXEC, PUT, GET, MOUNT, HIDE or CONTAINER. Returns 0 or an errno; request_free() in either case. */
int request_parse(uint32_t kind, char *bytes, size_t size, struct request *request);
void request_free(struct request *request);

#endif
