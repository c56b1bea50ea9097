/* What the launcher reads and answers: the other side of protocol.py, which says what each thing means. */
#ifndef MXC_WIRE_H
#define MXC_WIRE_H

#include <stdint.h>

#define WIRE_MAGIC 0x4C43584Du
#define WIRE_VERSION 1u
#define WIRE_MAX_SPEC (8u << 20)

enum wire_mode { MODE_OUTSIDE = 1, MODE_INSIDE = 2 };

enum wire_tag {
    TAG_PARENT = 1,
    TAG_CONTROL = 2,
    TAG_CGROUP = 3,
    TAG_STAGE = 4,
    TAG_MOUNT = 5,
    TAG_IDENTITY = 6,
    TAG_KEEP = 7,
    TAG_ARG = 8,
    TAG_ENV = 9,
    TAG_ROOT = 10,
    TAG_ENTRY = 11,
    TAG_CONTENT = 12,
    TAG_HIDDEN = 13,
    TAG_USERS = 14,
    TAG_MAPPER = 15,
    TAG_HOLD = 16,
    TAG_STDERR = 17,
    TAG_TTY = 18,
    TAG_UMASK = 19,
    TAG_CWD = 20,
    TAG_RLIMIT = 21,
    TAG_LANDLOCK = 22,
    TAG_LANDLOCK_PATH = 23,
    TAG_SECCOMP = 24,
    TAG_MASK = 25,
    TAG_OWNER = 26,
    TAG_GUARD = 27,
    TAG_GIVE = 28,
    TAG_USER = 29,
    TAG_UNSTOPPED = 30,
    TAG_IN_USERS = 31,
    TAG_IN_NETWORK = 32,
    TAG_COUNT
};

enum wire_step {
    STEP_SPEC = 1,
    STEP_PARENT_GONE = 2,
    STEP_SIGNALS = 3,
    STEP_CGROUP = 4,
    STEP_DUMPABLE = 5,
    STEP_STAGE_NAMESPACE = 6,
    STEP_STAGE_TMPFS = 7,
    STEP_MOUNT_CHANGED = 8,
    STEP_MOUNT_OPEN = 9,
    STEP_MOUNT_ID_MAP = 10,
    STEP_MOUNT_ATTRIBUTES = 11,
    STEP_MOUNT_POINT = 12,
    STEP_MOUNT_MOVE = 13,
    STEP_IDENTITY = 14,
    STEP_DESCRIPTORS = 15,
    STEP_EXEC_SANDBOX = 16,
    STEP_ROOT_IMAGE = 17,
    STEP_ROOT_MEMORY = 18,
    STEP_ROOT_OVERLAY = 19,
    STEP_ROOT_ENTRY = 20,
    STEP_HIDE = 21,
    STEP_USERS = 22,
    STEP_NETWORK = 23,
    STEP_NOT_INIT = 32,
    STEP_FORK = 33,
    STEP_SESSION = 34,
    STEP_TERMINAL = 35,
    STEP_STDERR = 36,
    STEP_CWD = 37,
    STEP_RLIMIT = 38,
    STEP_NO_NEW_PRIVS = 39,
    STEP_LANDLOCK = 40,
    STEP_LANDLOCK_PATH = 41,
    STEP_SECCOMP = 42,
    STEP_EXEC = 43,
    STEP_EVENTS = 44,
    STEP_MASK_CHANGED = 45,
    STEP_GUARD_LOST = 46
};

enum wire_kind { KIND_STARTED = 1, KIND_FAILED = 2, KIND_ENDED = 3, KIND_SIGNAL = 16 };

enum wire_exit { EXIT_SETUP_FAILED = 125, EXIT_CANNOT_EXECUTE = 126, EXIT_NOT_FOUND = 127 };

enum { MOUNT_FLAG_READ_ONLY = 1, MOUNT_FLAG_IDMAPPED = 2 };

struct wire_header {
    uint32_t magic, version, mode, size;
};

struct wire_record {
    uint32_t tag, length;
};

struct wire_mount {
    uint32_t fd, file_type;
    uint64_t device, inode;
    uint32_t flags, owner_uid, owner_gid, sandbox_uid, sandbox_gid;
} __attribute__((packed));

/* What is `inside_*` in a container, or on its image's disk, is `host_*` on the host; with TAG_USERS, the container's
 * host is the user namespace that those make. */
struct wire_ids {
    uint32_t inside_uid, inside_gid, host_uid, host_gid;
} __attribute__((packed));

/* The container's root comes first, its workload second. */
struct wire_root {
    uint32_t image;
    uint64_t size;
    struct wire_ids ids[2];
} __attribute__((packed));

struct wire_entry {
    uint32_t mode;
} __attribute__((packed));

struct wire_rlimit {
    uint32_t resource;
    uint64_t soft, hard;
} __attribute__((packed));

struct wire_landlock {
    uint32_t minimum_abi;
    uint64_t handled_fs, handled_net, scoped;
} __attribute__((packed));

struct wire_landlock_path {
    uint64_t access;
    uint32_t optional;
} __attribute__((packed));

struct wire_mask {
    uint32_t fd;
} __attribute__((packed));

/* What a gate is asked to do, one after another (see gate.py): the numbers, then as text the words of it, each with its
 * NUL. Descriptors come with the message. */
enum gate_op {
    GATE_ENTER = 1,    /* parent's pid, flags, ids: struct wire_ids of that many, then the mappers; a pidfd of whom it
                        * serves, and what is to be held → namespaces */
    GATE_PAIR = 2,     /* a link from inside to the host: the names of its ends */
    GATE_LINK = 3,     /* flags, mtu: name, what it is attached to */
    GATE_ADDRESS = 4,  /* length of the prefix: name, address */
    GATE_ROUTE = 5,    /* length of the prefix, flags: destination, gateway, name */
    GATE_SETTING = 6,  /* name below /proc/sys, value */
    GATE_WATCH = 7,    /* nft, table, sets of IPv4 and IPv6: what the host gets of addresses from now on is put there,
                        * and where the first number is not 0, what it has */
    GATE_LISTEN = 8,   /* type, port, backlog: address → socket */
    GATE_TAP = 9,      /* name → a machine's end of it */
    GATE_LOG = 10,     /* MiB that it may take, 0: any: messages of netlink that ask for it; where it goes */
    GATE_RUN = 11,     /* ms: argv; input and output → exit status */
    GATE_HELPER = 12,  /* argv, in which "@network" stands for the namespace; output */
    GATE_AWAIT = 13,   /* ms, flags: the link that the helper makes */
    GATE_SERVE = 14,   /* a socket on which sockets are asked for */
    GATE_ASK = 15      /* a request of netlink to netfilter, for all of something, or a transaction; where answers go */
};

enum gate_enter_flag { GATE_USERS = 1, GATE_MAPPERS = 2, GATE_HELPS = 4 };
enum gate_link_flag { GATE_ON_HOST = 1, GATE_ISOLATED = 2 }; /* from what else is attached beside it */
enum gate_route_flag { GATE_LOCAL = 1 };
enum gate_await_flag { GATE_IPV4 = 1, GATE_IPV6 = 2 };
enum { GATE_MESSAGE = 65536, GATE_DESCRIPTORS = 2 };

struct wire_step_asked {
    uint32_t op, numbers[3];
};

struct wire_step_done {
    uint32_t op;
    int32_t error;
    uint32_t value;
};

/* Before what was logged at once. */
struct wire_logged {
    uint64_t realtime_ns;
    uint32_t length;
} __attribute__((packed));

/* On the socket of GATE_SERVE; the answer is an errno, with a descriptor if that is 0. */
struct wire_socket {
    uint32_t family, type;
};

/* One size for every message, both ways. `value`: step, wait status or signal number. */
struct wire_message {
    uint32_t kind;
    int32_t value, error;
    uint32_t index;
    uint64_t user_us, system_us, max_rss_kib;
};

#endif
