/* What must differ between two clones of a machine, and what it uses of it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define CARD "eth0"

static struct outcome reseed(const unsigned char *random)
{
    struct {
        int entropy_count, size;
        unsigned char bytes[AGENT_RANDOM_BYTES];
    } pool = {AGENT_RANDOM_BYTES * 8, AGENT_RANDOM_BYTES, {0}};
    memcpy(pool.bytes, random, sizeof(pool.bytes));
    struct outcome outcome = SUCCESS;
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        outcome = failed(AGENT_STEP_RANDOM, "/dev/urandom");
    if (fd >= 0)
        close(fd);
    explicit_bzero(&pool, sizeof(pool));
    return outcome;
}

/* A new file under the name: what the image has there may be a link to somewhere else, or shared. */
static int write_file(const char *path, const char *text, size_t length)
{
    char beside[64];
    snprintf(beside, sizeof(beside), "%s.new", path);
    unlink(beside);
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    ssize_t put = write(fd, text, length);
    put += write(fd, "\n", 1);
    close(fd);
    return put == (ssize_t)length + 1 ? rename(beside, path) : -1;
}

static struct outcome set_clock(uint64_t realtime_ns)
{
    struct timespec now = {(time_t)(realtime_ns / 1000000000u), (long)(realtime_ns % 1000000000u)};
    return clock_settime(CLOCK_REALTIME, &now) < 0 ? failed(AGENT_STEP_CLOCK, "") : SUCCESS;
}

static struct outcome set_hostname(const char *name, size_t length)
{
    if (length == 0)
        return SUCCESS;
    if (sethostname(name, length) < 0 || write_file("/etc/hostname", name, length) < 0)
        return failed(AGENT_STEP_HOSTNAME, "/etc/hostname");
    return SUCCESS;
}

static struct outcome set_mac(const unsigned char mac[6])
{
    static const unsigned char none[6] = {0};
    struct ifreq card = {.ifr_name = CARD};
    if (memcmp(mac, none, sizeof(none)) == 0)
        return SUCCESS;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return failed(AGENT_STEP_MAC, CARD);
    struct outcome outcome = SUCCESS;
    if (ioctl(fd, SIOCGIFFLAGS, &card) == 0) { /* a machine without a card has nothing to be told apart by */
        short flags = card.ifr_flags;
        card.ifr_flags = (short)(flags & ~IFF_UP);
        int down = ioctl(fd, SIOCSIFFLAGS, &card);
        card.ifr_hwaddr.sa_family = ARPHRD_ETHER;
        memcpy(card.ifr_hwaddr.sa_data, mac, sizeof(none));
        if (down < 0 || ioctl(fd, SIOCSIFHWADDR, &card) < 0)
            outcome = failed(AGENT_STEP_MAC, CARD);
        card.ifr_flags = flags;
        if ((flags & IFF_UP) && ioctl(fd, SIOCSIFFLAGS, &card) < 0 && outcome.step == 0)
            outcome = failed(AGENT_STEP_MAC, CARD);
    }
    close(fd);
    return outcome;
}

/* The clock goes first: its value is as old as the message is on its way. */
struct outcome take_identity(const char *payload, size_t length)
{
    struct agent_identity identity;
    memcpy(&identity, payload, sizeof(identity));
    struct outcome outcome = set_clock(identity.realtime_ns);
    if (outcome.step == 0)
        outcome = reseed(identity.random);
    if (outcome.step == 0)
        outcome = set_hostname(payload + sizeof(identity), length - sizeof(identity));
    if (outcome.step == 0 && write_file("/etc/machine-id", identity.machine_id, sizeof(identity.machine_id)) < 0)
        outcome = failed(AGENT_STEP_MACHINE_ID, "/etc/machine-id");
    if (outcome.step == 0)
        outcome = set_mac(identity.mac);
    explicit_bzero(&identity, sizeof(identity));
    return outcome;
}
