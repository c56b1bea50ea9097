/* The parts of the launcher and what they share. */
#ifndef MXC_LAUNCHER_H
#define MXC_LAUNCHER_H

#include <sys/types.h>

#include "spec.h"

/* Where something failed and why; `step` 0 is no failure. */
struct failure {
    enum wire_step step;
    int error;
    uint32_t index;
};

#define NO_FAILURE ((struct failure){0, 0, 0})
#define FAILED(step_, index_) ((struct failure){(step_), errno, (uint32_t)(index_)})

/* common.c */
void send_message(int control, const struct wire_message *message);
void end_messages(int control);
void report_failure(int control, struct failure failure);
int exit_code_of(struct failure failure);

struct failure keep_descriptors(int *keep, size_t count, unsigned int close_range_flags);

/* stage.c: a private mount namespace with the granted objects at STAGE/0, STAGE/1, … */
struct failure build_stage(struct spec *spec);

int map_mount(const char *place, int users); /* the ids of a mount, from now on; -1 with errno */

/* users.c: a user namespace with these ids, as a descriptor; -1 with errno. */
int make_id_maps(const struct wire_ids *ids, uint32_t count);
/* … one of the caller's own, entered, with ids that were granted or without; and becoming its root. */
struct failure enter_users(const struct spec *spec);
struct failure enter_own_users(const struct spec *spec);
struct failure become_root_of_users(void);

/* stage_root.c: a container's root, at STAGE/root; `image`: what is below, or -1 for the image file of the spec. */
struct failure build_root(const struct spec *spec, int stage, int image);

/* unpack.c, remove.c: an image's files in `folder`, as "root"; 0, or an errno. */
int unpack_image(int image, int folder);
int remove_tree(int folder, const char *name);

/* identity.c: another user, without capabilities and groups */
struct failure drop_identity(uid_t uid, gid_t gid);

/* outside.c: becomes the sandbox program; returns only on failure. */
struct failure run_outside(struct spec *spec);

/* inside.c: process 1; returns the exit code. */
int run_inside(struct spec *spec);

/* workload.c: in the child; returns only on failure. */
struct failure become_workload(struct spec *spec, int error_fd);

/* masks.c: every mask covers the very object that was checked. */
struct failure check_masks(const struct spec *spec);

/* guards.c: names that must stay covered while the workload runs. */
struct guard {
    char *path;
    uint32_t index;
    dev_t device;
    ino_t inode;
    unsigned long flags;
};

struct guards {
    struct guard *list;
    uint32_t count;
    int mounts; /* /proc/self/mountinfo: tells by poll(2) that mounts came or went */
};

struct failure set_guards(const struct spec *spec, struct guards *guards);
struct failure watch_guards(struct guards *guards);
struct failure check_guards(const struct guards *guards);

/* landlock.c */
unsigned int landlock_abi(void);
struct failure apply_landlock(const struct spec *spec);

#endif
