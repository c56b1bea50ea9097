/* What flows to and from the processes of a job, never more than the receiver has room for. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

enum { GRANT = AGENT_WINDOW / 4 }; /* credit is given back in pieces of this size */

static struct output *first, **last = &first; /* those that may have something to read, in turn */

static void tell_closed(struct job *job)
{
    if (job->input.closed)
        return;
    job->input.closed = 1;
    if (job->started)
        link_send(AGENT_INPUT_CLOSED, 0, job->stream, NULL, 0);
}

static void input_release(struct input *input)
{
    watch_close(&input->watch);
    free(input->held);
    input->held = NULL;
    input->start = input->end = 0;
}

void input_close(struct job *job)
{
    input_release(&job->input);
}

/* What has reached the program is granted to the host again. */
static void grant(struct job *job, size_t bytes)
{
    struct input *input = &job->input;
    input->taken += (uint32_t)bytes;
    if (input->taken < GRANT || input->ended)
        return;
    link_send(AGENT_INPUT_CREDIT, 0, job->stream, &input->taken, sizeof(input->taken));
    input->credit += input->taken;
    input->taken = 0;
}

/* How much of it went in; -1: nobody will read it any more. */
static ssize_t push(struct job *job, const char *bytes, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t put = write(job->input.watch.fd, bytes + done, length - done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            break;
        if (put < 0)
            return -1;
        done += (size_t)put;
    }
    grant(job, done);
    return (ssize_t)done;
}

/* On a terminal the end of the input is a character. */
static void end_now(struct job *job)
{
    struct termios modes;
    if (job->terminal < 0) {
        if (job->is_container)
            shutdown(job->input.watch.fd, SHUT_WR); /* the socket has another descriptor */
        input_release(&job->input);
        return;
    }
    if (tcgetattr(job->terminal, &modes) == 0 && (modes.c_lflag & ICANON))
        (void)!write(job->terminal, &modes.c_cc[VEOF], 1);
    watch_change(&job->input.watch, 0);
}

static void input_ready(struct watch *watch, uint32_t events)
{
    struct job *job = OWNER_OF(watch, struct job, input.watch);
    struct input *input = &job->input;
    ssize_t put = 0;
    uint32_t gone = job->is_container ? EPOLLERR | EPOLLHUP : EPOLLERR; /* nobody is at the other end */
    if (!(events & gone))
        put = push(job, input->held + input->start, input->end - input->start);
    if ((events & gone) || put < 0) {
        tell_closed(job);
        input_release(input);
        return;
    }
    input->start += (size_t)put;
    if (input->start < input->end)
        return;
    free(input->held);
    input->held = NULL;
    input->start = input->end = 0;
    if (input->ended)
        end_now(job);
    else
        watch_change(watch, 0); /* the end of the reader is told in any case */
}

void input_open(struct job *job, int fd)
{
    job->input.watch = (struct watch){fd, input_ready};
    job->input.credit = AGENT_WINDOW;
    fcntl(fd, F_SETFL, O_WRONLY | O_NONBLOCK);
}

void input_start(struct job *job)
{
    if (job->input.closed)
        link_send(AGENT_INPUT_CLOSED, 0, job->stream, NULL, 0);
    if (job->input.watch.fd >= 0)
        watch_add(&job->input.watch, job->input.held ? EPOLLOUT : 0);
}

static void hold(struct input *input, const char *bytes, size_t length)
{
    if (!input->held) {
        input->held = malloc(AGENT_WINDOW);
        if (!input->held)
            link_broken("no memory");
        watch_change(&input->watch, EPOLLOUT);
    }
    if (input->end + length > AGENT_WINDOW) {
        memmove(input->held, input->held + input->start, input->end - input->start);
        input->end -= input->start;
        input->start = 0;
    }
    memcpy(input->held + input->end, bytes, length);
    input->end += length;
}

int input_take(struct job *job, const char *bytes, size_t length)
{
    struct input *input = &job->input;
    if (input->watch.fd < 0 || input->ended)
        return 0;
    if (length > input->credit)
        return -1;
    input->credit -= (uint32_t)length;
    ssize_t put = input->held ? 0 : push(job, bytes, length);
    if (put < 0) {
        tell_closed(job);
        input_release(input);
        return 0;
    }
    if ((size_t)put < length)
        hold(input, bytes + put, length - (size_t)put);
    return 0;
}

void input_end(struct job *job)
{
    struct input *input = &job->input;
    if (input->watch.fd < 0 || input->ended)
        return;
    input->ended = 1;
    if (!input->held)
        end_now(job);
}

static void list(struct output *output)
{
    if (output->listed)
        return;
    output->listed = 1;
    output->next = NULL;
    *last = output;
    last = &output->next;
}

static void unlist(struct output *output)
{
    if (!output->listed)
        return;
    struct output **place = &first;
    while (*place != output)
        place = &(*place)->next;
    *place = output->next;
    if (last == &output->next)
        last = place;
    output->listed = 0;
}

static void output_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    list(OWNER_OF(watch, struct output, watch));
}

static void listen_again(struct output *output)
{
    watch_change(&output->watch, EPOLLIN | EPOLLONESHOT);
}

void output_open(struct job *job, enum agent_channel channel, int fd)
{
    struct output *output = &job->outputs[channel - 1];
    *output = (struct output){
        .watch = {fd, output_ready}, .channel = (uint16_t)channel, .credit = AGENT_WINDOW, .limit = -1};
    output->is_terminal = job->terminal >= 0;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void output_start(struct output *output)
{
    if (output->watch.fd >= 0)
        watch_add(&output->watch, EPOLLIN | EPOLLONESHOT);
}

void output_close(struct output *output)
{
    unlist(output);
    watch_close(&output->watch);
}

void output_credit(struct job *job, uint32_t channel, uint32_t bytes)
{
    if (channel != AGENT_STDOUT && channel != AGENT_STDERR)
        return;
    struct output *output = &job->outputs[channel - 1];
    if (bytes > AGENT_WINDOW || output->credit + bytes > AGENT_WINDOW)
        output->credit = AGENT_WINDOW;
    else
        output->credit += bytes;
    if (output->starved && output->watch.fd >= 0) {
        output->starved = 0;
        list(output);
    }
}

/* The program has ended, others hold its output: what they have written by now still passes. */
void output_linger(struct output *output)
{
    int waiting = 0;
    if (output->watch.fd < 0 || output->limit >= 0)
        return;
    if (ioctl(output->watch.fd, FIONREAD, &waiting) < 0)
        waiting = 0;
    output->limit = waiting;
    list(output);
}

static void end_output(struct output *output)
{
    struct job *job = OWNER_OF(output - (output->channel - 1), struct job, outputs);
    output_close(output);
    link_send(AGENT_OUTPUT_END, output->channel, job->stream, NULL, 0);
    job_settle(job);
}

void output_refuse(struct job *job, uint32_t channel)
{
    if ((channel == AGENT_STDOUT || channel == AGENT_STDERR) && job->outputs[channel - 1].watch.fd >= 0)
        end_output(&job->outputs[channel - 1]);
}

static int next_of(struct job *job, struct output *output, struct piece *piece)
{
    if (output->limit == 0) {
        end_output(output);
        return 0;
    }
    if (output->credit == 0) {
        output->starved = 1;
        return 0;
    }
    size_t most = output->credit < AGENT_MAX_PAYLOAD ? output->credit : AGENT_MAX_PAYLOAD;
    if (output->limit > 0 && most > (size_t)output->limit)
        most = (size_t)output->limit;
    ssize_t got = piece_take(piece, job->stream, output, most);
    if (got < 0 && (errno == EAGAIN || errno == EINTR) && output->limit < 0) {
        listen_again(output);
        return 0;
    }
    if (got <= 0) {
        end_output(output); /* a terminal without a program gives EIO */
        return 0;
    }
    output->credit -= (uint32_t)got;
    if (output->limit > 0)
        output->limit -= got;
    if (piece->spliced > 0 || output->limit >= 0)
        list(output);
    else
        listen_again(output);
    return 1;
}

int outputs_next(struct piece *piece)
{
    while (first) {
        struct output *output = first;
        struct job *job = OWNER_OF(output - (output->channel - 1), struct job, outputs);
        unlist(output);
        if (next_of(job, output, piece))
            return 1;
    }
    return 0;
}
