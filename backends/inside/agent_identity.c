/* What must differ between two clones of a machine, and what it uses of it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define CARD "eth0"

/* In memory outside the programs' root, and mounted where they look for them: a clone has little time, and to write
 * through an overlay takes much of it. What else an identity needs is opened before, too. */
static struct file {
    const char *source, *target;
    int fd;
} hostname = {"/hostname", "/etc/hostname", -1}, machine_id = {"/machine-id", "/etc/machine-id", -1},
  resolver = {"/resolv.conf", "/etc/resolv.conf", -1};
static int random_device = -1, cards = -1;

int identity_make_files(void)
{
    struct file *files[] = {&hostname, &machine_id, &resolver};
    for (size_t i = 0; i < 3; i++)
        if ((files[i]->fd = open(files[i]->source, O_RDWR | O_CREAT | O_CLOEXEC, 0644)) < 0)
            return -1;
    return 0;
}

/* A new file under the name: what the image has there may be a link to somewhere else. */
static int show(const struct file *file)
{
    char source[32];
    snprintf(source, sizeof(source), "/proc/self/fd/%d", file->fd);
    unlink(file->target);
    int place = open(file->target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (place < 0)
        return -1;
    close(place);
    return mount(source, file->target, NULL, MS_BIND, NULL);
}

int identity_show_files(void)
{
    mkdir("/etc", 0755);
    random_device = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    cards = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (random_device < 0 || cards < 0 || show(&hostname) < 0 || show(&resolver) < 0)
        return -1;
    return show(&machine_id);
}

static struct outcome reseed(const unsigned char *random)
{
    struct {
        int entropy_count, size;
        unsigned char bytes[AGENT_RANDOM_BYTES];
    } pool = {AGENT_RANDOM_BYTES * 8, AGENT_RANDOM_BYTES, {0}};
    memcpy(pool.bytes, random, sizeof(pool.bytes));
    struct outcome outcome = SUCCESS;
    if (ioctl(random_device, RNDADDENTROPY, &pool) < 0 || ioctl(random_device, RNDRESEEDCRNG) < 0)
        outcome = failed(AGENT_STEP_RANDOM, "/dev/urandom");
    explicit_bzero(&pool, sizeof(pool));
    return outcome;
}

static int fill(const struct file *file, const char *text, size_t length)
{
    ssize_t put = pwrite(file->fd, text, length, 0);
    put += pwrite(file->fd, "\n", 1, (off_t)length);
    return put == (ssize_t)length + 1 ? ftruncate(file->fd, put) : -1;
}

int identity_set_resolver(const char *text)
{
    return fill(&resolver, text, strlen(text));
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
    if (sethostname(name, length) < 0 || fill(&hostname, name, length) < 0)
        return failed(AGENT_STEP_HOSTNAME, "/etc/hostname");
    return SUCCESS;
}

static struct outcome set_mac(const unsigned char mac[6])
{
    static const unsigned char none[6] = {0};
    struct ifreq card = {.ifr_name = CARD};
    if (memcmp(mac, none, sizeof(none)) == 0)
        return SUCCESS;
    if (ioctl(cards, SIOCGIFHWADDR, &card) < 0)
        return SUCCESS; /* a machine without a card has nothing to be told apart by */
    if (memcmp(card.ifr_hwaddr.sa_data, mac, sizeof(none)) == 0)
        return SUCCESS; /* to take it down would take its routes */
    if (ioctl(cards, SIOCGIFFLAGS, &card) < 0)
        return failed(AGENT_STEP_MAC, CARD);
    short flags = card.ifr_flags;
    card.ifr_flags = (short)(flags & ~IFF_UP);
    int failures = (flags & IFF_UP) && ioctl(cards, SIOCSIFFLAGS, &card) < 0;
    card.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(card.ifr_hwaddr.sa_data, mac, sizeof(none));
    failures += ioctl(cards, SIOCSIFHWADDR, &card) < 0;
    card.ifr_flags = flags;
    failures += (flags & IFF_UP) && ioctl(cards, SIOCSIFFLAGS, &card) < 0;
    return failures ? failed(AGENT_STEP_MAC, CARD) : SUCCESS;
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
    if (outcome.step == 0 && fill(&machine_id, identity.machine_id, sizeof(identity.machine_id)) < 0)
        outcome = failed(AGENT_STEP_MACHINE_ID, "/etc/machine-id");
    if (outcome.step == 0)
        outcome = set_mac(identity.mac);
    explicit_bzero(&identity, sizeof(identity));
    return outcome;
}
