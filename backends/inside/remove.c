/* Removing what was unpacked: its files are of ids that only their user namespace has. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

enum { MAX_DEPTH = 256 };

static int remove_below(int folder, const char *name, int depth);

static int empty(int fd, int depth)
{
    DIR *entries = fdopendir(fd);
    if (!entries) {
        close(fd);
        return -1;
    }
    int done = 0;
    errno = 0;
    for (struct dirent *entry; done == 0 && (entry = readdir(entries)); errno = 0)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            done = remove_below(fd, entry->d_name, depth);
    if (done == 0 && errno != 0)
        done = -1;
    int error = errno;
    closedir(entries);
    errno = error;
    return done;
}

static int remove_below(int folder, const char *name, int depth)
{
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR)
        return -1;
    errno = ELOOP;
    int fd = depth == 0 ? -1 : openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || empty(fd, depth - 1) < 0)
        return -1;
    return unlinkat(folder, name, AT_REMOVEDIR);
}

int remove_tree(int folder, const char *name)
{
    return remove_below(folder, name, MAX_DEPTH) < 0 ? errno : 0;
}
