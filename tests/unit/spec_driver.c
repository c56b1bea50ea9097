/* Parse specs from standard input, each as mode (u32), size (u32), bytes; answer each with its errno in a line.
 * Built with sanitisers: every string that was accepted is read to its end. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spec.h"

static size_t touch(struct spec *spec)
{
    size_t total = spec->cwd ? strlen(spec->cwd) : 0;
    total += spec->stage ? strlen(spec->stage) : 0;
    for (char **text = spec->argv; *text; text++)
        total += strlen(*text);
    for (char **text = spec->env; *text; text++)
        total += strlen(*text);
    for (uint32_t i = 0; i < spec->count[TAG_LANDLOCK_PATH]; i++)
        total += strlen(spec->rules[i].path) + (size_t)spec->rules[i].access;
    for (uint32_t i = 0; i < spec->count[TAG_MOUNT]; i++)
        total += spec->mounts[i].fd + (size_t)spec->mounts[i].inode;
    for (uint32_t i = 0; i < spec->count[TAG_MASK]; i++)
        total += strlen(spec->masks[i].path) + (size_t)spec->masks[i].fd;
    for (uint32_t i = 0; i < spec->count[TAG_ENTRY]; i++)
        total += strlen(spec->entries[i].path) + strlen(spec->entries[i].content) + (size_t)spec->entries[i].mode;
    for (uint32_t i = 0; i < spec->count[TAG_HIDDEN]; i++)
        total += strlen(spec->hidden[i]);
    for (uint32_t i = 0; i < spec->count[TAG_GUARD]; i++)
        total += strlen(spec->guards[i]);
    total += spec->root.image + (size_t)spec->root.size + spec->root.ids[1].host_gid;
    for (size_t i = 0; i < spec->filter_bytes; i++)
        total += spec->filter[i];
    return total;
}

int main(void)
{
    uint32_t head[2];
    size_t total = 0;
    while (fread(head, sizeof(head), 1, stdin) == 1) {
        char *buffer = malloc(head[1] ? head[1] : 1);
        struct spec spec;
        if (!buffer || (head[1] && fread(buffer, head[1], 1, stdin) != 1))
            return 2;
        int error = spec_parse(buffer, head[1], (enum wire_mode)head[0], &spec);
        if (!error)
            total += touch(&spec);
        printf("%d\n", error);
        spec_wipe(&spec);
    }
    return total == 1;
}
