/* What the host and the agent say to each other: the other side of agent_protocol.py, which says what it means. */
#ifndef MXC_AGENT_WIRE_H
#define MXC_AGENT_WIRE_H

#include <stdint.h>

#define AGENT_MAGIC 0x4158434Du
#define AGENT_VERSION 2u

enum {
    AGENT_MAX_PAYLOAD = 65536, /* of one frame */
    AGENT_MAX_MESSAGE = 8 << 20, /* of one message in several frames */
    AGENT_WINDOW = 262144, /* bytes that a channel may send before it gets further credit */
    AGENT_MAX_STREAMS = 1024, /* alive at once */
    AGENT_RANDOM_BYTES = 64
};

/* The host's are below 128, the agent's from 128 on. */
enum agent_kind {
    /* from the host */
    AGENT_HELLO = 1,
    AGENT_PING = 2,
    AGENT_IDENTITY = 3,
    AGENT_EXEC = 4,
    AGENT_INPUT = 5,
    AGENT_INPUT_END = 6,
    AGENT_CREDIT = 7,
    AGENT_RESIZE = 8,
    AGENT_SIGNAL = 9,
    AGENT_PUT = 10,
    AGENT_GET = 11,
    AGENT_MOUNT = 12,
    AGENT_REPORT = 13,
    AGENT_SYNC = 14,
    AGENT_POWER_OFF = 15,
    AGENT_OUTPUT_CLOSED = 16,
    AGENT_HIDE = 17,
    AGENT_NETWORK = 18,
    AGENT_CONTAINER = 19,
    /* from the agent */
    AGENT_WELCOME = 128,
    AGENT_PONG = 129,
    AGENT_STARTED = 130,
    AGENT_OUTPUT = 131,
    AGENT_OUTPUT_END = 132,
    AGENT_INPUT_CREDIT = 133,
    AGENT_INPUT_CLOSED = 134,
    AGENT_ENDED = 135,
    AGENT_FAILED = 136,
    AGENT_DONE = 137,
    AGENT_REPORTED = 138
};

enum agent_flag {
    AGENT_FLAG_MORE = 1, /* of every request with records: the message goes on in the next frame of its stream */
    AGENT_FLAG_EVERY = 2, /* SIGNAL: every process but the agent and the zygote, not just those of the stream */
    AGENT_FLAG_LAST = 4 /* SIGNAL: the time of the stream's program is up; what it leaves behind is killed */
};

/* In `flags` of OUTPUT, OUTPUT_END, CREDIT and OUTPUT_CLOSED. A GET's only one is STDOUT. */
enum agent_channel { AGENT_STDOUT = 1, AGENT_STDERR = 2 };

enum agent_tag {
    AGENT_TAG_ARG = 1,
    AGENT_TAG_ENV = 2,
    AGENT_TAG_CWD = 3,
    AGENT_TAG_USER = 4,
    AGENT_TAG_RLIMIT = 5,
    AGENT_TAG_UMASK = 6,
    AGENT_TAG_TTY = 7,
    AGENT_TAG_NO_INPUT = 8,
    AGENT_TAG_TIMEOUT = 9,
    AGENT_TAG_ZYGOTE = 10,
    AGENT_TAG_SECCOMP = 11,
    AGENT_TAG_CGROUP = 12,
    AGENT_TAG_PRIVILEGED = 13,
    AGENT_TAG_PORT = 14,
    AGENT_TAG_PATH = 32,
    AGENT_TAG_OWNER = 33,
    AGENT_TAG_AT_MOST = 34,
    AGENT_TAG_REPLACE = 35,
    AGENT_TAG_SOURCE = 48,
    AGENT_TAG_FILE_SYSTEM = 49,
    AGENT_TAG_MOUNT_FLAGS = 50,
    AGENT_TAG_SIZE = 51,
    AGENT_TAG_HIDDEN = 52,
    AGENT_TAG_UPPER = 53,
    AGENT_TAG_HOSTNAME = 54,
    AGENT_TAG_OWN_NETWORK = 55,
    AGENT_TAG_COUNT
};

enum agent_mount_flag {
    AGENT_MOUNT_READ_ONLY = 1,
    AGENT_MOUNT_NO_SUID = 2,
    AGENT_MOUNT_NO_DEV = 4,
    AGENT_MOUNT_NO_EXEC = 8,
    AGENT_MOUNT_BIND = 16
};

enum agent_step {
    AGENT_STEP_MESSAGE = 1,
    AGENT_STEP_STREAMS = 2,
    AGENT_STEP_PIPES = 3,
    AGENT_STEP_TERMINAL = 4,
    AGENT_STEP_FORK = 5,
    AGENT_STEP_CGROUP = 6,
    AGENT_STEP_SESSION = 7,
    AGENT_STEP_IDENTITY = 8,
    AGENT_STEP_RLIMIT = 9,
    AGENT_STEP_CWD = 10,
    AGENT_STEP_SECCOMP = 11,
    AGENT_STEP_EXEC = 12,
    AGENT_STEP_ZYGOTE = 13,
    AGENT_STEP_OPEN = 14,
    AGENT_STEP_ARCHIVE = 15,
    AGENT_STEP_WRITE = 16,
    AGENT_STEP_READ = 17,
    AGENT_STEP_TOO_MUCH = 18,
    AGENT_STEP_MOUNT_POINT = 19,
    AGENT_STEP_MOUNT = 20,
    AGENT_STEP_RANDOM = 21,
    AGENT_STEP_CLOCK = 22,
    AGENT_STEP_HOSTNAME = 23,
    AGENT_STEP_MACHINE_ID = 24,
    AGENT_STEP_MAC = 25,
    AGENT_STEP_HIDE = 26,
    AGENT_STEP_CONNECT = 27,
    AGENT_STEP_NETWORK = 28,
    AGENT_STEP_CONTAINER = 29
};

enum agent_ended_flag {
    AGENT_ENDED_TIMED_OUT = 1,
    AGENT_ENDED_HIT_MEMORY = 2, /* the cgroup's memory.max killed something */
    AGENT_ENDED_HIT_PIDS = 4 /* the cgroup's pids.max refused a fork */
};

struct agent_frame {
    uint32_t length; /* of the payload */
    uint16_t kind, flags;
    uint32_t stream; /* 0: the connection */
} __attribute__((packed));

struct agent_record {
    uint32_t tag, length;
} __attribute__((packed));

struct agent_hello {
    uint32_t magic, version;
} __attribute__((packed));

struct agent_welcome {
    uint32_t magic, version;
    uint64_t boot_us; /* CLOCK_BOOTTIME when the agent was ready */
    uint32_t zygote; /* whether one was started with the agent */
} __attribute__((packed));

/* Followed by the hostname, without an end. */
struct agent_identity {
    uint64_t realtime_ns;
    unsigned char random[AGENT_RANDOM_BYTES];
    char machine_id[32];
    unsigned char mac[6];
} __attribute__((packed));

/* Followed by texts, each with its end: address and gateway of IPv4, of IPv6 ("": none of that), resolv.conf. */
struct agent_network {
    uint32_t prefix, prefix6;
} __attribute__((packed));

struct agent_user {
    uint32_t uid, gid;
} __attribute__((packed));

struct agent_rlimit {
    uint32_t resource;
    uint64_t soft, hard;
} __attribute__((packed));

struct agent_timeout {
    uint32_t after_ms, grace_ms, signal;
} __attribute__((packed));

struct agent_at_most {
    uint64_t bytes;
    uint32_t entries;
} __attribute__((packed));

struct agent_size {
    uint16_t rows, columns;
} __attribute__((packed));

struct agent_ended {
    int32_t status; /* as waitpid(2) gives it */
    uint32_t flags;
    uint64_t user_us, system_us, max_rss_kib;
} __attribute__((packed));

/* Followed by what the error is about (a path, a name), without an end. */
struct agent_failed {
    uint32_t step;
    int32_t error;
} __attribute__((packed));

struct agent_done {
    uint64_t bytes, entries;
} __attribute__((packed));

struct agent_reported {
    uint64_t memory_total, memory_available, cpu_us, uptime_us; /* bytes, microseconds */
    uint32_t streams, processes;
} __attribute__((packed));

#endif
