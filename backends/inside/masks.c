/* Bubblewrap mounts masks by path: were a denied object renamed just then, something else would be masked. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

static int is_named(int fd, const char *path)
{
    char link[64], name[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof(name));
    return length > 0 && (size_t)length == strlen(path) && memcmp(name, path, (size_t)length) == 0;
}

/* Closed to us is closed to the workload; absent is neither the object nor its mask. */
static int is_covered(int fd, const char *path)
{
    struct stat denied, seen;
    if (fstat(fd, &denied) < 0)
        return 0;
    if (lstat(path, &seen) < 0)
        return errno == EACCES;
    return seen.st_dev != denied.st_dev || seen.st_ino != denied.st_ino;
}

/* A mask stays on its object whatever that is called afterwards. So: if, at one instant, the object has the path
 * and something else is seen there, then that is its mask. No single call tells both. Asked in an order that
 * nobody can foresee, whoever keeps renaming must have the right name in place each time: 2^-32. */
static int covers(const struct mask *mask)
{
    uint32_t order;
    if (getrandom(&order, sizeof(order), 0) != (ssize_t)sizeof(order))
        return 0;
    for (int turn = 0; turn < 32; turn++, order >>= 1)
        if (!(order & 1 ? is_named(mask->fd, mask->path) : is_covered(mask->fd, mask->path)))
            return 0;
    return 1;
}

struct failure check_masks(const struct spec *spec)
{
    for (uint32_t index = 0; index < spec->count[TAG_MASK]; index++)
        if (!covers(&spec->masks[index])) {
            errno = ESTALE;
            return FAILED(STEP_MASK_CHANGED, index);
        }
    return NO_FAILURE;
}
