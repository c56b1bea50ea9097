/* The launcher: `launcher outside FD` on the host, `launcher inside FD` as process 1 of the sandbox. See protocol.py.
 * `launcher gate FD`: see gate.h.
 * `launcher unpack IMAGE FOLDER` (descriptors) and `launcher remove FOLDER NAME`: as root of a user namespace. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "gate.h"
#include "launcher.h"

#ifndef MXC_KEY
#error "MXC_KEY, the hash of the sources, is given by build.py"
#endif

static int parse_fd(const char *text)
{
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    return errno || *end || end == text || fd < 3 || fd > INT_MAX ? -1 : (int)fd;
}

static int outside(int fd)
{
    struct spec spec;
    int error = spec_read(fd, MODE_OUTSIDE, &spec);
    struct failure failure = error ? (struct failure){STEP_SPEC, error, 0} : run_outside(&spec);
    report_failure(spec.control, failure);
    return EXIT_SETUP_FAILED;
}

static int inside(int fd)
{
    struct spec spec;
    /* First of all: from here on no other process of the sandbox can look into this one. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return EXIT_SETUP_FAILED;
    int error = spec_read(fd, MODE_INSIDE, &spec);
    if (!error)
        return run_inside(&spec);
    report_failure(spec.control, (struct failure){STEP_SPEC, error, 0});
    return EXIT_SETUP_FAILED;
}

/* 0, or what the system says on standard error. */
static int told(int error)
{
    if (error)
        fprintf(stderr, "%s\n", strerror(error));
    return error ? EXIT_SETUP_FAILED : 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return puts(MXC_KEY) < 0;
    int fd = argc == 3 ? parse_fd(argv[2]) : -1;
    if (fd >= 0 && strcmp(argv[1], "outside") == 0)
        return outside(fd);
    if (fd >= 0 && strcmp(argv[1], "inside") == 0)
        return inside(fd);
    if (fd >= 0 && strcmp(argv[1], "gate") == 0)
        return run_gate(fd);
    int second = argc == 4 ? parse_fd(argv[2]) : -1;
    if (second >= 0 && strcmp(argv[1], "unpack") == 0)
        return told(unpack_image(second, parse_fd(argv[3])));
    if (second >= 0 && strcmp(argv[1], "remove") == 0)
        return told(remove_tree(second, argv[3]));
    fputs("usage: launcher (outside|inside|gate) FD | unpack IMAGE FOLDER | remove FOLDER NAME | --version\n", stderr);
    return EXIT_SETUP_FAILED;
}
