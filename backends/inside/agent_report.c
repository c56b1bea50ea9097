/* What the machine has used. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static void slurp(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = '\0';
}

static uint64_t kib_after(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

/* The first line of /proc/stat: user, nice, system, idle, waiting for devices, interrupts …, in ticks. */
static uint64_t cpu_us(const char *text)
{
    enum { IDLE = 3, WAITING = 4, FIELDS = 8 };
    uint64_t ticks = 0;
    char *place = NULL;
    const char *number = text + strcspn(text, " ");
    for (int field = 0; field < FIELDS; field++, number = place) {
        uint64_t value = strtoull(number, &place, 10);
        if (field != IDLE && field != WAITING)
            ticks += value;
    }
    long rate = sysconf(_SC_CLK_TCK);
    return ticks * (1000000u / (uint64_t)(rate > 0 ? rate : 100));
}

void send_report(uint32_t stream)
{
    char text[4096];
    struct timespec up;
    struct agent_reported report = {.streams = (uint32_t)job_count(), .processes = (uint32_t)count_processes()};
    slurp("/proc/meminfo", text, sizeof(text));
    report.memory_total = kib_after(text, "MemTotal:");
    report.memory_available = kib_after(text, "MemAvailable:");
    slurp("/proc/stat", text, sizeof(text));
    report.cpu_us = cpu_us(text);
    clock_gettime(CLOCK_BOOTTIME, &up);
    report.uptime_us = (uint64_t)up.tv_sec * 1000000u + (uint64_t)up.tv_nsec / 1000;
    link_send(AGENT_REPORTED, 0, stream, &report, sizeof(report));
}
