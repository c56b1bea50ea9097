/* A spec, read and checked. Strings point into `buffer`. */
#ifndef MXC_SPEC_H
#define MXC_SPEC_H

#include <stddef.h>
#include <sys/types.h>

#include "wire.h"

enum { MAX_CGROUPS = 64, MAX_KEEP = 4096, MAX_HOLD = 64, MAX_GIVE = 64, MAX_RLIMITS = 16 };
enum { MAX_OWNERS = 2, MAX_RULES = 4096, MAX_MOUNTS = 4096, MAX_MASKS = 4096, MAX_GUARDS = 8192, MAX_ENTRIES = 8192, MAX_IDS = 4 };

struct landlock_path {
    uint64_t access;
    uint32_t optional;
    char *path;
};

/* `fd` is the denied object, found on the host at `path`. */
struct mask {
    int fd;
    char *path;
};

/* Made in the stage: a file with its content, a link with its target, a folder. */
struct stage_entry {
    mode_t mode;
    char *path, *content;
};

struct spec {
    char *buffer;
    size_t size;
    enum wire_mode mode;
    uint32_t count[TAG_COUNT]; /* how many records of each tag there are */

    int control;
    char **argv, **env;

    pid_t parent;
    int cgroups[MAX_CGROUPS];
    char *stage;
    struct wire_mount *mounts;
    uid_t uid;
    gid_t gid;
    int keep[MAX_KEEP];
    struct wire_ids users[MAX_IDS];
    char *mappers[2]; /* newuidmap, newgidmap */
    int in_users, in_network; /* namespaces that are there already, or -1 */
    struct wire_root root;
    struct stage_entry *entries;
    char **hidden;

    int hold[MAX_HOLD];
    int give[MAX_GIVE];
    int stderr_fd;
    int owners[MAX_OWNERS]; /* pidfds */
    mode_t umask;
    char *cwd;
    struct wire_rlimit rlimits[MAX_RLIMITS];
    struct wire_landlock landlock;
    struct landlock_path *rules;
    struct mask *masks;
    char **guards;
    unsigned char *filter;
    size_t filter_bytes;
};

/* Check `size` bytes at `buffer` (which the spec then owns) and fill `spec`. Returns 0, or an errno; even then
 * `spec->control` is the control socket if it was seen, else -1. */
int spec_parse(char *buffer, size_t size, enum wire_mode mode, struct spec *spec);

/* Read the whole of `fd`, close it, parse it. Returns 0 or an errno. */
int spec_read(int fd, enum wire_mode mode, struct spec *spec);

/* Overwrite and free everything. */
void spec_wipe(struct spec *spec);

#endif
