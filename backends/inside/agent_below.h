/* Names below a folder, never through a symbolic link, never out of it. */
#ifndef MXC_AGENT_BELOW_H
#define MXC_AGENT_BELOW_H

#include <stddef.h>
#include <sys/types.h>

/* openat2(2) of a relative path ("" is the folder itself) without symbolic links. A filter of system calls that
 * cannot look into its arguments may pretend that there is none: then step by step. */
int open_below(int folder, const char *path, int flags);

/* For reading, a folder's own folder. EXDEV: something is mounted there. */
int open_same_mount(int folder, const char *name);

/* Whether something is mounted in the place of a file. Keeps errno. */
int is_mounted(int folder, const char *name);

/* Who is to own what is made; NULL leaves it as it is. */
struct owner {
    uid_t uid;
    gid_t gid;
};

/* The folder at `path`, made with its parents where missing. */
int make_below(int folder, const char *path, const struct owner *owner);

/* The folder that holds the last part of `path`, made where missing (-1: not even then); `*name` is that part. */
int make_parent(int folder, const char *path, const struct owner *owner, const char **name);

/* "/" and the rest of an absolute path, without empty parts, in `rest`. -1 with errno for a path that is not
 * absolute or goes back up. */
int open_root(const char *absolute, char *rest, size_t room);

/* From now on what is private to the agent (/run/mxc) is that folder, which may be out of every program's sight. */
void keep_private_in(int folder);

#endif
