/* The agent's decoders on bytes from standard input, each portion as mode (u32), size (u32), bytes; one line says
 * what became of it. Built with sanitisers: whatever was accepted is read to its end. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent_decode.h"
#include "agent_tar.h"

enum { FRAMES = 1000, ARCHIVE = 1001, SIZES = 1002 };

static size_t total;

static void touch(const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        total += ((const unsigned char *)bytes)[i];
}

static void touch_text(const char *text)
{
    if (text)
        touch(text, strlen(text));
}

/* Fed in pieces whose sizes the bytes themselves give. */
static void try_frames(const char *bytes, size_t size)
{
    struct decoder *decoder = calloc(1, sizeof(*decoder));
    struct frame frame;
    int got = 0, count = 0;
    for (size_t at = 0, piece; at < size && got >= 0; at += piece) {
        size_t room;
        char *place = decoder_space(decoder, &room);
        piece = 1 + (unsigned char)bytes[at] * 300u;
        if (room == 0)
            abort();
        piece = piece > room ? room : piece;
        piece = piece > size - at ? size - at : piece;
        memcpy(place, bytes + at, piece);
        decoder->end += piece;
        while ((got = decoder_next(decoder, &frame)) == 1) {
            touch(frame.payload, frame.length);
            count++;
        }
    }
    printf("%d %d\n", got, count);
    free(decoder);
}

static void try_request(uint32_t kind, char *bytes, size_t size)
{
    struct request request;
    int error = request_parse(kind, bytes, size, &request);
    if (!error) {
        for (char **text = request.argv; *text; text++)
            touch_text(*text);
        for (char **text = request.env; *text; text++)
            touch_text(*text);
        for (uint32_t i = 0; i < request.count[AGENT_TAG_CGROUP]; i++)
            touch_text(request.cgroup[i]);
        touch_text(request.cwd);
        touch_text(request.source_text);
        touch_text(request.path);
        touch_text(request.source);
        touch_text(request.file_system);
        touch_text(request.upper);
        touch_text(request.hostname);
        touch(request.filter, request.filter_bytes);
    }
    printf("%d\n", error);
    request_free(&request);
}

/* What was read, written and read again is the same. */
static void check_round_trip(const struct tar_entry *entry)
{
    static char place[TAR_MAX_HEADER];
    static struct tar_extended extended;
    static struct tar_entry again;
    memset(&extended, 0, sizeof(extended));
    size_t used = tar_write(entry, place);
    if (used % TAR_BLOCK || used > sizeof(place))
        abort();
    if (used > TAR_BLOCK && (tar_read(place, &extended, &again) != 1 || again.type != TAR_EXTENDED ||
                             tar_read_extended(place + TAR_BLOCK, again.size, &extended) < 0))
        abort();
    if (tar_read(place + used - TAR_BLOCK, &extended, &again) != 1 || strcmp(again.path, entry->path) ||
        strcmp(again.link, entry->link) || again.size != entry->size || again.mtime != entry->mtime ||
        again.mtime_ns != entry->mtime_ns || again.uid != entry->uid || again.gid != entry->gid)
        abort();
}

static void try_archive(const char *bytes, size_t size)
{
    static struct tar_extended extended;
    static struct tar_entry entry;
    int got = -1, count = 0;
    memset(&extended, 0, sizeof(extended));
    for (size_t at = 0; size - at >= TAR_BLOCK;) {
        got = tar_read(bytes + at, &extended, &entry);
        if (got <= 0)
            break;
        at += TAR_BLOCK;
        size_t left = size - at;
        if (entry.type == TAR_EXTENDED && entry.size <= left) {
            if (tar_read_extended(bytes + at, entry.size, &extended) < 0) {
                got = -1;
                break;
            }
        } else if (entry.type != TAR_EXTENDED && entry.type != TAR_GLOBAL) {
            entry.mode &= 07777;
            check_round_trip(&entry);
            count++;
        }
        uint64_t padded = (entry.size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
        if (padded > left)
            break;
        at += padded;
    }
    printf("%d %d\n", got, count);
}

static void tell_sizes(void)
{
    printf("%zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu\n", sizeof(struct agent_frame),
           sizeof(struct agent_record), sizeof(struct agent_hello), sizeof(struct agent_welcome),
           sizeof(struct agent_identity), sizeof(struct agent_user), sizeof(struct agent_rlimit),
           sizeof(struct agent_timeout), sizeof(struct agent_at_most), sizeof(struct agent_size),
           sizeof(struct agent_ended), sizeof(struct agent_failed), sizeof(struct agent_done),
           sizeof(struct agent_reported));
}

int main(void)
{
    uint32_t head[2];
    while (fread(head, sizeof(head), 1, stdin) == 1) {
        char *bytes = malloc(head[1] ? head[1] : 1);
        if (!bytes || (head[1] && fread(bytes, head[1], 1, stdin) != 1))
            return 2;
        if (head[0] == FRAMES)
            try_frames(bytes, head[1]);
        else if (head[0] == ARCHIVE)
            try_archive(bytes, head[1]);
        else if (head[0] == SIZES)
            tell_sizes();
        else
            try_request(head[0], bytes, head[1]);
        free(bytes);
    }
    return total == 1;
}
