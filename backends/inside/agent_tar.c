#define _GNU_SOURCE
#include "agent_tar.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], unused[12];
};

_Static_assert(sizeof(struct header) == TAR_BLOCK, "a header is one block");

static int wrong(int error)
{
    errno = error;
    return -1;
}

static uint32_t checksum_of(const struct header *header)
{
    uint32_t sum = 0;
    const unsigned char *bytes = (const unsigned char *)header;
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += i - offsetof(struct header, checksum) < sizeof(header->checksum) ? ' ' : bytes[i];
    return sum;
}

/* Octal digits, or, with the highest bit of the first byte, a number as it is. */
static int read_number(const char *field, size_t width, uint64_t *number)
{
    const unsigned char *bytes = (const unsigned char *)field;
    size_t at = 0;
    *number = 0;
    if (bytes[0] & 0x80) {
        if (bytes[0] != 0x80)
            return wrong(ERANGE);
        for (at = 1; at < width; at++) {
            if (*number >> 55)
                return wrong(ERANGE);
            *number = *number << 8 | bytes[at];
        }
        return 0;
    }
    while (at < width && bytes[at] == ' ')
        at++;
    for (; at < width && bytes[at] >= '0' && bytes[at] <= '7'; at++)
        *number = *number << 3 | (uint64_t)(bytes[at] - '0');
    return at < width && bytes[at] != '\0' && bytes[at] != ' ' ? wrong(EINVAL) : 0;
}

/* Without empty and "." parts; whatever could lead out is refused. In place. */
static int clean_path(char *path)
{
    char *to = path;
    if (path[0] == '/')
        return wrong(EINVAL);
    for (char *from = path; *from;) {
        size_t length = strcspn(from, "/");
        char *next = from + length + (from[length] == '/');
        if (length == 2 && from[0] == '.' && from[1] == '.')
            return wrong(EINVAL);
        if (length > 0 && !(length == 1 && from[0] == '.')) {
            if (to != path)
                *to++ = '/';
            memmove(to, from, length);
            to += length;
        }
        from = next;
    }
    *to = '\0';
    return 0;
}

static void take_names(const struct header *header, struct tar_entry *entry)
{
    int prefixed = memcmp(header->magic, "ustar", sizeof(header->magic)) == 0 && header->prefix[0];
    snprintf(entry->path, sizeof(entry->path), "%.*s%s%.*s", prefixed ? (int)sizeof(header->prefix) : 0,
             header->prefix, prefixed ? "/" : "", (int)sizeof(header->name), header->name);
    snprintf(entry->link, sizeof(entry->link), "%.*s", (int)sizeof(header->link), header->link);
}

static void apply(const struct tar_extended *extended, struct tar_entry *entry)
{
    const struct tar_entry *new = &extended->entry;
    if (extended->has_path)
        memcpy(entry->path, new->path, sizeof(entry->path));
    if (extended->has_link)
        memcpy(entry->link, new->link, sizeof(entry->link));
    if (extended->has_size)
        entry->size = new->size;
    if (extended->has_uid)
        entry->uid = new->uid;
    if (extended->has_gid)
        entry->gid = new->gid;
    if (extended->has_mtime) {
        entry->mtime = new->mtime;
        entry->mtime_ns = new->mtime_ns;
    }
}

static int check_entry(struct tar_entry *entry)
{
    if (entry->size > (uint64_t)INT64_MAX / 2)
        return wrong(ERANGE);
    switch (entry->type) {
    case TAR_EXTENDED:
    case TAR_GLOBAL:
        return entry->size > TAR_MAX_EXTENDED ? wrong(E2BIG) : 0;
    case '\0':
    case '7': /* contiguous: a plain file everywhere */
        entry->type = TAR_FILE;
        return clean_path(entry->path);
    case TAR_FILE:
        return clean_path(entry->path);
    case TAR_LINK:
        if (clean_path(entry->link) < 0)
            return -1;
        entry->size = 0;
        return clean_path(entry->path);
    case TAR_SYMLINK:
    case TAR_FOLDER:
        entry->size = 0;
        return clean_path(entry->path);
    default:
        return wrong(EPERM); /* devices, pipes, and what other programs have invented */
    }
}

int tar_read(const char block[TAR_BLOCK], struct tar_extended *extended, struct tar_entry *entry)
{
    static const char zeros[TAR_BLOCK];
    if (memcmp(block, zeros, sizeof(zeros)) == 0)
        return 0;
    struct header header;
    uint64_t checksum, mode, uid, gid, mtime;
    memcpy(&header, block, sizeof(header));
    memset(entry, 0, offsetof(struct tar_entry, path));
    if (read_number(header.checksum, sizeof(header.checksum), &checksum) < 0 || checksum != checksum_of(&header))
        return wrong(EINVAL);
    if (read_number(header.mode, sizeof(header.mode), &mode) < 0 ||
        read_number(header.uid, sizeof(header.uid), &uid) < 0 ||
        read_number(header.gid, sizeof(header.gid), &gid) < 0 ||
        read_number(header.size, sizeof(header.size), &entry->size) < 0 ||
        read_number(header.mtime, sizeof(header.mtime), &mtime) < 0)
        return -1;
    entry->type = header.type;
    entry->mode = (uint32_t)mode;
    entry->uid = (uint32_t)uid;
    entry->gid = (uint32_t)gid;
    entry->mtime = (int64_t)mtime;
    take_names(&header, entry);
    if (entry->type != TAR_EXTENDED && entry->type != TAR_GLOBAL) {
        apply(extended, entry);
        memset(extended, 0, sizeof(*extended));
    }
    return check_entry(entry) < 0 ? -1 : 1;
}

static int take_decimal(const char *value, uint64_t *number)
{
    char *end;
    errno = 0;
    *number = strtoull(value, &end, 10);
    return errno || end == value || *end || *value == '-' ? wrong(EINVAL) : 0;
}

static int take_small(const char *value, uint32_t *number)
{
    uint64_t wide;
    if (take_decimal(value, &wide) < 0 || wide > UINT32_MAX)
        return wrong(EINVAL);
    *number = (uint32_t)wide;
    return 0;
}

/* Seconds, perhaps with a fraction, of which nine digits count. */
static int take_time(const char *value, struct tar_entry *entry)
{
    char *end;
    errno = 0;
    entry->mtime = strtoll(value, &end, 10);
    entry->mtime_ns = 0;
    if (errno || end == value || (*end != '\0' && *end != '.'))
        return wrong(EINVAL);
    uint32_t scale = 100000000;
    for (const char *digit = end + (*end == '.'); *digit; digit++, scale /= 10) {
        if (*digit < '0' || *digit > '9')
            return wrong(EINVAL);
        entry->mtime_ns += scale * (uint32_t)(*digit - '0');
    }
    if (value[0] == '-' && entry->mtime_ns > 0) {
        entry->mtime--;
        entry->mtime_ns = 1000000000 - entry->mtime_ns;
    }
    return 0;
}

static int take_path(const char *value, char *place)
{
    if (strlen(value) >= TAR_MAX_PATH)
        return wrong(ENAMETOOLONG);
    snprintf(place, TAR_MAX_PATH, "%s", value);
    return 0;
}

static int take_record(const char *key, const char *value, struct tar_extended *extended)
{
    struct tar_entry *entry = &extended->entry;
    if (strcmp(key, "path") == 0)
        return extended->has_path = 1, take_path(value, entry->path);
    if (strcmp(key, "linkpath") == 0)
        return extended->has_link = 1, take_path(value, entry->link);
    if (strcmp(key, "size") == 0)
        return extended->has_size = 1, take_decimal(value, &entry->size);
    if (strcmp(key, "mtime") == 0)
        return extended->has_mtime = 1, take_time(value, entry);
    if (strcmp(key, "uid") == 0)
        return extended->has_uid = 1, take_small(value, &entry->uid);
    if (strcmp(key, "gid") == 0)
        return extended->has_gid = 1, take_small(value, &entry->gid);
    return strncmp(key, "GNU.sparse", 10) == 0 ? wrong(EPERM) : 0;
}

/* Each is "LENGTH KEY=VALUE\n", the length being that of all of it. */
int tar_read_extended(const char *records, size_t size, struct tar_extended *extended)
{
    char text[TAR_MAX_PATH + 64];
    memset(extended, 0, sizeof(*extended));
    for (size_t at = 0; at < size;) {
        size_t length = 0, digits = 0;
        while (at + digits < size && digits < 7 && records[at + digits] >= '0' && records[at + digits] <= '9')
            length = length * 10 + (size_t)(records[at + digits++] - '0');
        if (digits == 0 || length < digits + 4 || length > size - at || records[at + digits] != ' ' ||
            records[at + length - 1] != '\n')
            return wrong(EINVAL);
        size_t kept = length - digits - 2; /* what is longer than any of ours is none of ours, or too long */
        const char *start = records + at + digits + 1;
        const char *equals = memchr(start, '=', kept);
        if (!equals || memchr(start, '\0', kept))
            return wrong(EINVAL);
        int is_path = equals - start == 4 || equals - start == 8;
        if (kept >= sizeof(text) && is_path)
            return wrong(ENAMETOOLONG);
        if (kept < sizeof(text)) {
            memcpy(text, start, kept);
            text[kept] = text[equals - start] = '\0';
            if (take_record(text, text + (equals - start) + 1, extended) < 0)
                return -1;
        }
        at += length;
    }
    return 0;
}

static void write_octal(char *field, size_t width, uint64_t number)
{
    for (size_t at = width - 1; at-- > 0; number >>= 3)
        field[at] = (char)('0' + (number & 7));
}

static void fill_header(struct header *header, const struct tar_entry *entry)
{
    memset(header, 0, sizeof(*header));
    memcpy(header->name, entry->path, strnlen(entry->path, sizeof(header->name)));
    memcpy(header->link, entry->link, strnlen(entry->link, sizeof(header->link)));
    write_octal(header->mode, sizeof(header->mode), entry->mode);
    write_octal(header->uid, sizeof(header->uid), entry->uid);
    write_octal(header->gid, sizeof(header->gid), entry->gid);
    write_octal(header->size, sizeof(header->size), entry->size);
    write_octal(header->mtime, sizeof(header->mtime), entry->mtime > 0 ? (uint64_t)entry->mtime : 0);
    header->type = entry->type;
    memcpy(header->magic, "ustar", sizeof(header->magic));
    memcpy(header->version, "00", sizeof(header->version));
    write_octal(header->checksum, sizeof(header->checksum) - 1, checksum_of(header));
    header->checksum[7] = ' ';
}

static size_t add_record(char *place, const char *key, const char *value)
{
    size_t body = strlen(key) + strlen(value) + 3, length = body + 1;
    for (size_t digits = 1, bound = 10; length >= bound; bound *= 10)
        length = body + ++digits;
    return (size_t)snprintf(place, length + 1, "%zu %s=%s\n", length, key, value);
}

static size_t add_number(char *place, const char *key, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return add_record(place, key, text);
}

/* A time before 1970 that is no whole second has its fraction counted downwards. */
static size_t add_time(char *place, int64_t seconds, uint32_t ns)
{
    char text[40];
    int before = seconds < 0 && ns > 0;
    int64_t whole = before ? seconds + 1 : seconds;
    snprintf(text, sizeof(text), "%s%lld.%09u", before && whole == 0 ? "-" : "", (long long)whole,
             before ? 1000000000 - ns : ns);
    return add_record(place, "mtime", text);
}

static size_t fill_records(char *place, const struct tar_entry *entry)
{
    size_t length = 0;
    if (strlen(entry->path) > sizeof(((struct header *)0)->name))
        length += add_record(place + length, "path", entry->path);
    if (strlen(entry->link) > sizeof(((struct header *)0)->link))
        length += add_record(place + length, "linkpath", entry->link);
    if (entry->size >> 33)
        length += add_number(place + length, "size", entry->size);
    if (entry->uid >> 21)
        length += add_number(place + length, "uid", entry->uid);
    if (entry->gid >> 21)
        length += add_number(place + length, "gid", entry->gid);
    if (entry->mtime_ns || entry->mtime < 0 || entry->mtime >> 33)
        length += add_time(place + length, entry->mtime, entry->mtime_ns);
    return length;
}

size_t tar_write(const struct tar_entry *entry, char *place)
{
    struct header header;
    size_t length = fill_records(place + TAR_BLOCK, entry), used = 0;
    if (length > 0) {
        static const struct tar_entry extended = {.type = TAR_EXTENDED, .mode = 0644, .path = "pax"};
        size_t padded = (length + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
        struct header before;
        fill_header(&before, &extended);
        write_octal(before.size, sizeof(before.size), length);
        write_octal(before.checksum, sizeof(before.checksum) - 1, checksum_of(&before));
        memcpy(place, &before, sizeof(before));
        memset(place + TAR_BLOCK + length, 0, padded - length);
        used = TAR_BLOCK + padded;
    }
    fill_header(&header, entry);
    memcpy(place + used, &header, sizeof(header));
    return used + sizeof(header);
}
