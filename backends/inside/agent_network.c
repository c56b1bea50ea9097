/* A machine's card: its addresses, its routes, and whom its programs ask for names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "links.h"

#define CARD "eth0"

enum { WORDS = 5 };

/* The words of the text, each with its end; 0 unless there are just so many. */
static int read_words(const char *text, size_t length, const char *words[WORDS])
{
    size_t count = 0, at = 0;
    if (length == 0 || text[length - 1])
        return 0;
    for (; at < length; at += strlen(text + at) + 1) {
        if (count == WORDS)
            return 0;
        words[count++] = text + at;
    }
    return count == WORDS;
}

static int add_family(int links, const char *address, uint32_t prefix, const char *gateway, const char *everywhere)
{
    if (!*address)
        return 0;
    int error = add_address(links, CARD, address, prefix);
    return error ? error : add_route(links, everywhere, 0, gateway, CARD, 0);
}

/* Answers an errno. */
static int bring_up(const struct agent_network *network, const char *const words[WORDS])
{
    int links = open_links();
    if (links < 0)
        return errno;
    int error = set_link(links, CARD, "", 0, 0);
    if (!error)
        error = add_family(links, words[0], network->prefix, words[1], "0.0.0.0");
    if (!error)
        error = add_family(links, words[2], network->prefix6, words[3], "::");
    close(links);
    return error;
}

int raise_loopback(void)
{
    int links = open_links();
    int error = links < 0 ? errno : set_link(links, "lo", "", 0, 0);
    if (links >= 0)
        close(links);
    /* Nobody else is in it: programs need no rights to ask for an echo, or to serve a port that has a name. */
    set_kernel("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    set_kernel("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    errno = error;
    return error ? -1 : 0;
}

struct outcome take_network(const char *payload, size_t length)
{
    struct agent_network network;
    const char *words[WORDS];
    memcpy(&network, payload, sizeof(network));
    if (!read_words(payload + sizeof(network), length - sizeof(network), words)) {
        errno = EINVAL;
        return failed(AGENT_STEP_MESSAGE, "");
    }
    errno = bring_up(&network, words);
    if (errno)
        return failed(AGENT_STEP_NETWORK, CARD);
    return identity_set_resolver(words[4]) < 0 ? failed(AGENT_STEP_NETWORK, "/etc/resolv.conf") : SUCCESS;
}
