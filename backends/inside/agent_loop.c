#define _GNU_SOURCE
#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

enum { BURST = 32 }; /* events handled before what is to be sent goes out */

static int epoll = -1;

void loop_init(void)
{
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        link_broken("epoll");
}

int watch_add(struct watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, watch->fd, &event);
}

void watch_change(struct watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    epoll_ctl(epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

/* Removed by name: a copy of the descriptor in a child would keep it in the set. */
int watch_release(struct watch *watch)
{
    int fd = watch->fd;
    epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
    watch->fd = -1;
    return fd;
}

void watch_close(struct watch *watch)
{
    if (watch->fd >= 0)
        close(watch_release(watch));
}

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* One event at a time, so that none is about something which the one before has closed. */
void loop_run(void)
{
    int handled = 0, more = 0;
    for (;;) {
        struct epoll_event event;
        int64_t wait = handled || more ? 0 : jobs_deadline();
        int got = epoll_wait(epoll, &event, 1, wait > 60000 ? 60000 : (int)wait);
        if (got == 1) {
            struct watch *watch = event.data.ptr;
            watch->ready(watch, event.events);
            if (++handled < BURST)
                continue;
        }
        handled = 0;
        jobs_tick();
        more = link_flush();
    }
}
