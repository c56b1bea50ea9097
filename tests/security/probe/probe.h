/* The attacks that need system calls by number. Each answers >= 0 when the kernel did it, else -errno. */
#ifndef PROBE_H
#define PROBE_H

#define MAX_WORDS 4
#define AGAIN "probe-again"

struct attempt {
    const char *name;
    long (*make)(char **words); /* the words after `name=`, split at commas; missing ones are NULL */
};

extern const struct attempt call_attempts[], file_attempts[], process_attempts[], use_attempts[], mode_attempts[];

long answer(long result); /* what the C library returned → result or -errno */

#endif
