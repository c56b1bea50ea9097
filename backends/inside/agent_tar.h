/* Headers of a tar archive (POSIX ustar with pax records) as data, and back: no system calls. */
#ifndef MXC_AGENT_TAR_H
#define MXC_AGENT_TAR_H

#include <stddef.h>
#include <stdint.h>

enum { TAR_BLOCK = 512, TAR_MAX_PATH = 4096, TAR_MAX_EXTENDED = 1 << 16 };

enum tar_type {
    TAR_FILE = '0',
    TAR_LINK = '1',
    TAR_SYMLINK = '2',
    TAR_FOLDER = '5',
    TAR_EXTENDED = 'x', /* records about the next entry */
    TAR_GLOBAL = 'g' /* records about all of them: passed over */
};

/* `path` is clean after tar_read(): relative, without "." and "..", "" for the root of the archive itself. */
struct tar_entry {
    char type;
    uint32_t mode, uid, gid, mtime_ns;
    uint64_t size;
    int64_t mtime;
    char path[TAR_MAX_PATH], link[TAR_MAX_PATH];
};

/* What the records of an extended header change in the entry that follows. */
struct tar_extended {
    int has_path, has_link, has_size, has_mtime, has_uid, has_gid;
    struct tar_entry entry;
};

/* 1: an entry; 0: the end of the archive; -1 with errno: no header, or nothing that we take. */
int tar_read(const char block[TAR_BLOCK], struct tar_extended *extended, struct tar_entry *entry);

/* The records of an extended header. -1 with errno for what are none. */
int tar_read_extended(const char *records, size_t size, struct tar_extended *extended);

/* The header of an entry, with an extended one before it when it takes one; how many bytes, whole blocks.
 * `room` is at least TAR_MAX_HEADER. */
enum { TAR_MAX_HEADER = 3 * TAR_MAX_PATH };
size_t tar_write(const struct tar_entry *entry, char *place);

#endif
