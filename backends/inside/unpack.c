/* The files of an erofs image, in a folder: for who may not mount one. Its kernel documentation is
 * filesystems/erofs.rst; nothing compressed and nothing in chunks is read, for our images have no such thing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

enum { SUPER_OFFSET = 1024, SLOT = 32, XATTR_HEADER = 12, ENTRY = 12, MAX_DEPTH = 128, WORKLOAD = 1000 };
enum { LAYOUT_PLAIN = 0, LAYOUT_INLINE = 2 };
#define SUPER_MAGIC 0xE0F5E1E2u

struct super {
    uint32_t magic, checksum, compatible;
    uint8_t block_bits, slots;
    uint16_t root;
    uint64_t inodes, time;
    uint32_t time_ns, blocks, meta_block;
} __attribute__((packed));

struct small_inode {
    uint16_t format, xattrs, mode, links;
    uint32_t size, reserved, block, number;
    uint16_t uid, gid;
} __attribute__((packed));

struct large_inode {
    uint16_t format, xattrs, mode, reserved;
    uint64_t size;
    uint32_t block, number, uid, gid;
    uint64_t time;
    uint32_t time_ns, links;
} __attribute__((packed));

struct inode {
    mode_t mode;
    uint64_t size, data, tail, whole; /* `whole` bytes are at `data`, the rest at `tail` */
    uint32_t uid, gid, links;
    struct timespec time;
};

struct name_of {
    uint64_t number;
    char *path;
};

static const unsigned char *image;
static uint64_t image_size;
static struct super super;
static int top;
static char path[PATH_MAX]; /* of what is being made, below `top` */
static struct name_of *linked;
static size_t linked_count;
static uint64_t folder_count;

/* NULL with errno when it is not within the image. */
static const void *at(uint64_t offset, uint64_t length)
{
    errno = EUCLEAN;
    return offset > image_size || length > image_size - offset ? NULL : image + offset;
}

static int read_small(const struct small_inode *raw, struct inode *inode)
{
    *inode = (struct inode){.mode = raw->mode,
                            .size = raw->size,
                            .data = raw->block,
                            .uid = raw->uid,
                            .gid = raw->gid,
                            .links = raw->links,
                            .time = {(time_t)super.time, (long)super.time_ns}};
    return SLOT;
}

static int read_large(const struct large_inode *raw, struct inode *inode)
{
    *inode = (struct inode){.mode = raw->mode,
                            .size = raw->size,
                            .data = raw->block,
                            .uid = raw->uid,
                            .gid = raw->gid,
                            .links = raw->links,
                            .time = {(time_t)raw->time, (long)raw->time_ns}};
    return 2 * SLOT;
}

/* Where its content is; what it takes in memory is looked at when it is read. */
static int locate(struct inode *inode, uint64_t tail, int layout)
{
    uint64_t block = 1ull << super.block_bits;
    errno = EOPNOTSUPP;
    if (layout != LAYOUT_PLAIN && layout != LAYOUT_INLINE)
        return -1;
    errno = EUCLEAN;
    if (inode->size > image_size)
        return -1;
    inode->data <<= super.block_bits;
    inode->tail = tail;
    inode->whole = layout == LAYOUT_PLAIN || inode->size == 0 ? inode->size : (inode->size - 1) / block * block;
    return 0;
}

static int read_inode(uint64_t number, struct inode *inode)
{
    if (number > image_size / SLOT)
        return errno = EUCLEAN, -1;
    uint64_t offset = ((uint64_t)super.meta_block << super.block_bits) + number * SLOT;
    const struct small_inode *raw = at(offset, sizeof(struct small_inode));
    if (!raw)
        return -1;
    int large = raw->format & 1;
    if (large && !at(offset, sizeof(struct large_inode)))
        return -1;
    uint64_t xattrs = raw->xattrs ? XATTR_HEADER + 4 * ((uint64_t)raw->xattrs - 1) : 0;
    int layout = raw->format >> 1 & 7;
    int length = large ? read_large((const void *)raw, inode) : read_small(raw, inode);
    return locate(inode, offset + (uint64_t)length + xattrs, layout);
}

/* The bytes of a file from `offset` on, as many as lie together; NULL with errno. */
static const unsigned char *content(const struct inode *inode, uint64_t offset, uint64_t *length)
{
    int whole = offset < inode->whole;
    *length = (whole ? inode->whole : inode->size) - offset;
    return at(whole ? inode->data + offset : inode->tail + (offset - inode->whole), *length);
}

static int write_file(int fd, const struct inode *inode)
{
    for (uint64_t done = 0, length; done < inode->size; done += length) {
        const unsigned char *bytes = content(inode, done, &length);
        if (!bytes)
            return -1;
        for (uint64_t written = 0; written < length;) {
            ssize_t some = write(fd, bytes + written, length - written);
            if (some < 0 && errno != EINTR)
                return -1;
            written += some < 0 ? 0 : (uint64_t)some;
        }
    }
    return 0;
}

static int make_file(int folder, const char *name, const struct inode *inode)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int done = fd < 0 ? -1 : write_file(fd, inode);
    if (done == 0)
        done = fchmod(fd, inode->mode & 0777);
    if (fd >= 0)
        close(fd);
    return done;
}

static int make_link(int folder, const char *name, const struct inode *inode)
{
    char target[PATH_MAX];
    uint64_t length;
    const unsigned char *bytes = content(inode, 0, &length);
    if (!bytes || length != inode->size || length == 0 || length >= sizeof(target))
        return errno = EUCLEAN, -1;
    memcpy(target, bytes, length);
    target[length] = '\0';
    return symlinkat(target, folder, name);
}

static uint32_t owner(uint32_t id)
{
    return id == WORKLOAD ? WORKLOAD : 0;
}

static int finish(int folder, const char *name, const struct inode *inode)
{
    struct timespec times[2] = {inode->time, inode->time};
    if (fchownat(folder, name, owner(inode->uid), owner(inode->gid), AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    return utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW);
}

/* 1: the file has a name already, and got this one too. */
static int link_known(int folder, const char *name, uint64_t number, const struct inode *inode)
{
    if (inode->links < 2)
        return 0;
    for (size_t i = 0; i < linked_count; i++)
        if (linked[i].number == number)
            return linkat(top, linked[i].path, folder, name, 0) < 0 ? -1 : 1;
    struct name_of *more = realloc(linked, (linked_count + 1) * sizeof(*more));
    if (!more)
        return -1;
    linked = more;
    linked[linked_count] = (struct name_of){number, strdup(path)};
    return linked[linked_count++].path ? 0 : -1;
}

static int make_entry(int folder, const char *name, uint64_t number, int depth);

/* Names of one block of a folder; the last one ends with the block or at a NUL. */
static int fill_from_block(int fd, const unsigned char *block, uint64_t length, int depth)
{
    uint16_t first;
    memcpy(&first, block + 8, sizeof(first));
    if (first < ENTRY || first % ENTRY || first > length)
        return errno = EUCLEAN, -1;
    for (unsigned int offset = 0; offset < first; offset += ENTRY) {
        uint64_t number, end = length;
        uint16_t start, next;
        memcpy(&number, block + offset, sizeof(number));
        memcpy(&start, block + offset + 8, sizeof(start));
        if (offset + ENTRY < first) {
            memcpy(&next, block + offset + ENTRY + 8, sizeof(next));
            end = next;
        }
        char name[NAME_MAX + 1];
        size_t size = start < end && end <= length ? strnlen((const char *)block + start, end - start) : 0;
        if (start < first || size == 0 || size > NAME_MAX || memchr(block + start, '/', size))
            return errno = EUCLEAN, -1;
        memcpy(name, block + start, size);
        name[size] = '\0';
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && make_entry(fd, name, number, depth) < 0)
            return -1;
    }
    return 0;
}

static int fill_folder(int fd, const struct inode *inode, int depth)
{
    uint64_t block = 1ull << super.block_bits;
    for (uint64_t offset = 0; offset < inode->size; offset += block) {
        uint64_t length;
        const unsigned char *bytes = content(inode, offset, &length);
        if (bytes && length < ENTRY)
            return errno = EUCLEAN, -1;
        if (!bytes || fill_from_block(fd, bytes, length < block ? length : block, depth) < 0)
            return -1;
    }
    return 0;
}

static int make_folder(int folder, const char *name, const struct inode *inode, int depth)
{
    errno = ELOOP; /* a folder has one name: there are no more of them than inodes */
    if (depth == 0 || ++folder_count > super.inodes || folder_count > image_size / SLOT || mkdirat(folder, name, 0700) < 0)
        return -1;
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int done = fd < 0 ? -1 : fill_folder(fd, inode, depth - 1);
    if (done == 0)
        done = fchmod(fd, inode->mode & 01777);
    if (fd >= 0)
        close(fd);
    return done;
}

/* Devices cannot be made in a user namespace, and none could be used; what has no content either is left out too. */
static int make_entry(int folder, const char *name, uint64_t number, int depth)
{
    struct inode inode;
    size_t length = strlen(path);
    int room = (int)(sizeof(path) - length);
    if (read_inode(number, &inode) < 0)
        return -1;
    errno = ENAMETOOLONG;
    if (snprintf(path + length, (size_t)room, "%s%s", length ? "/" : "", name) >= room)
        return -1;
    int done = S_ISDIR(inode.mode) ? 0 : link_known(folder, name, number, &inode);
    if (done == 0 && (S_ISDIR(inode.mode) || S_ISREG(inode.mode) || S_ISLNK(inode.mode))) {
        done = S_ISDIR(inode.mode)   ? make_folder(folder, name, &inode, depth)
               : S_ISREG(inode.mode) ? make_file(folder, name, &inode)
                                     : make_link(folder, name, &inode);
        if (done == 0)
            done = finish(folder, name, &inode);
    }
    path[length] = '\0';
    return done < 0 ? -1 : 0;
}

static int read_super(void)
{
    const void *raw = at(SUPER_OFFSET, sizeof(super));
    if (!raw)
        return -1;
    memcpy(&super, raw, sizeof(super));
    errno = EUCLEAN;
    return super.magic == SUPER_MAGIC && super.block_bits >= 9 && super.block_bits <= 16 ? 0 : -1;
}

int unpack_image(int fd, int folder)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return errno;
    image_size = (uint64_t)status.st_size;
    void *mapped = image_size == 0 ? MAP_FAILED : mmap(NULL, image_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (mapped == MAP_FAILED)
        return image_size == 0 ? EUCLEAN : errno;
    image = mapped;
    top = folder;
    umask(0);
    if (read_super() < 0 || make_entry(folder, "root", super.root, MAX_DEPTH) < 0 || syncfs(folder) < 0)
        return errno;
    return 0;
}
