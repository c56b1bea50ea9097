/* Covering what nobody may see; for the agent and for the launcher. */
#ifndef MXC_HIDE_H
#define MXC_HIDE_H

#include <stdint.h>
#include <sys/types.h>

/* `root`: the folder that names begin at; `cover`: an empty file, with a name, that nobody may read; `owner`: the
 * user, and group, who may make places for mounts in a folder that was covered. */
struct hiding {
    int root, cover;
    uid_t owner;
};

/* -1 with errno, and which of the names it was (`count`: another name of one of their objects). */
int hide_names(const struct hiding *hiding, char *const *names, uint32_t count, uint32_t *failed);

/* Mount `source` on `place`, with these flags of mount(2); -1 with errno. */
int bind_object(int source, int place, unsigned long flags);

#endif
