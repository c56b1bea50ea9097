/* One frame of output on its way from a program to the host. Much of it goes from pipe to pipe to the connection
 * without being copied, head and all in one go: each write to a port is an exit from the machine. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.h"

enum { WORTH_SPLICING = 8192, GATHERED = 2 * AGENT_MAX_PAYLOAD, WITH_HEAD = 4 * AGENT_MAX_PAYLOAD };

static int make_pipe(int ends[2], int size)
{
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    return fcntl(ends[1], F_SETPIPE_SZ, size) < 0 ? -1 : 0;
}

/* What fits into the one, in however many fragments, fits into the other behind its head. */
int piece_init(struct piece *piece)
{
    return make_pipe(piece->gathered, GATHERED) < 0 ? -1 : make_pipe(piece->pipe, WITH_HEAD);
}

void piece_drop(struct piece *piece)
{
    while (piece->spliced > 0) {
        ssize_t got = read(piece->pipe[0], piece->bytes, sizeof(piece->bytes));
        if (got <= 0)
            break;
        piece->spliced -= (size_t)got;
    }
    piece->start = piece->end = piece->spliced = 0;
}

static void put_head(char *place, uint32_t stream, const struct output *output, size_t length)
{
    struct agent_frame head = {(uint32_t)length, AGENT_OUTPUT, output->channel, stream};
    memcpy(place, &head, sizeof(head));
}

/* How much there is, is known only when it is here: a program can take back what it wrote into its own pipe. */
static ssize_t take_by_splice(struct piece *piece, uint32_t stream, const struct output *output, size_t most)
{
    char head[sizeof(struct agent_frame)];
    ssize_t got = splice(output->watch.fd, NULL, piece->gathered[1], NULL, most, SPLICE_F_NONBLOCK);
    if (got <= 0)
        return got;
    put_head(head, stream, output, (size_t)got);
    if (write(piece->pipe[1], head, sizeof(head)) != (ssize_t)sizeof(head) ||
        splice(piece->gathered[0], NULL, piece->pipe[1], NULL, (size_t)got, SPLICE_F_NONBLOCK) != got)
        link_broken("output cannot be kept");
    piece->spliced = sizeof(head) + (size_t)got;
    return got;
}

ssize_t piece_take(struct piece *piece, uint32_t stream, const struct output *output, size_t most)
{
    int there = 0;
    size_t room = sizeof(piece->bytes) - sizeof(struct agent_frame);
    piece->start = piece->end = 0;
    if (!output->is_terminal && most >= WORTH_SPLICING && ioctl(output->watch.fd, FIONREAD, &there) == 0 &&
        there >= WORTH_SPLICING)
        return take_by_splice(piece, stream, output, most);
    ssize_t got = read(output->watch.fd, piece->bytes + sizeof(struct agent_frame), most < room ? most : room);
    if (got > 0) {
        put_head(piece->bytes, stream, output, (size_t)got);
        piece->end = sizeof(struct agent_frame) + (size_t)got;
    }
    return got;
}

/* All that is in the pipe, and nothing but that: Linux (up to 6.1 at least) makes empty buffers of what stays in
 * a pipe that is spliced to a port, and those end the device. It returns 0 when it has lost what it took. */
int piece_write(struct piece *piece, int fd)
{
    while (piece->spliced > 0) {
        ssize_t put = splice(piece->pipe[0], NULL, fd, NULL, piece->spliced, SPLICE_F_NONBLOCK);
        if (put < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (put <= 0)
            link_broken("output is lost");
        piece->spliced -= (size_t)put;
    }
    return 1;
}
