/* Links, addresses and routes by rtnetlink(7): what ip(8) does, without a program for each. */
#define _GNU_SOURCE
#include "links.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_BYTES = 1024 };

struct request {
    union {
        struct nlmsghdr header;
        char bytes[REQUEST_BYTES];
    };
};

static struct rtattr *end_of(struct request *request)
{
    return (struct rtattr *)(void *)(request->bytes + NLMSG_ALIGN(request->header.nlmsg_len));
}

static struct rtattr *put(struct request *request, unsigned short type, const void *data, size_t length)
{
    struct rtattr *attribute = end_of(request);
    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(length);
    if (length)
        memcpy(RTA_DATA(attribute), data, length);
    request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)RTA_ALIGN(attribute->rta_len);
    return attribute;
}

static void put_text(struct request *request, unsigned short type, const char *text)
{
    put(request, type, text, strlen(text) + 1);
}

static void put_number(struct request *request, unsigned short type, uint32_t number)
{
    put(request, type, &number, sizeof(number));
}

/* What is put until then is within `outer`. */
static void close_nest(struct request *request, struct rtattr *outer)
{
    outer->rta_len = (unsigned short)((char *)end_of(request) - (char *)outer);
}

static struct request begin(unsigned short type, unsigned short flags, const void *body, size_t length)
{
    struct request request = {0};
    request.header = (struct nlmsghdr){.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags};
    request.header.nlmsg_len = (uint32_t)NLMSG_LENGTH(length);
    memcpy(NLMSG_DATA(&request.header), body, length);
    return request;
}

/* The answer's length, or 0 with errno. */
static size_t send_and_receive(int links, const struct request *request, char *answer, size_t room)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    ssize_t got = sendto(links, request, request->header.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel));
    if (got < 0)
        return 0;
    do
        got = recv(links, answer, room, 0);
    while (got < 0 && errno == EINTR);
    if (got >= 0 && got < (ssize_t)(NLMSG_HDRLEN + sizeof(int32_t)))
        errno = EPROTO;
    return got < (ssize_t)(NLMSG_HDRLEN + sizeof(int32_t)) ? 0 : (size_t)got;
}

/* What an answer of the type NLMSG_ERROR says; the kernel answers each request that changes something with one. */
static int error_in(const char *answer)
{
    struct nlmsghdr header;
    int32_t error;
    memcpy(&header, answer, sizeof(header));
    memcpy(&error, answer + NLMSG_HDRLEN, sizeof(error));
    return header.nlmsg_type == NLMSG_ERROR ? -error : EPROTO;
}

static int ask(int links, const struct request *request)
{
    char answer[4096];
    return send_and_receive(links, request, answer, sizeof(answer)) ? error_in(answer) : errno;
}

/* By the socket's own namespace, which need not be the one that we are in. */
static int index_of(int links, const char *name, uint32_t *index)
{
    struct ifinfomsg body = {.ifi_family = AF_UNSPEC};
    struct request request = begin(RTM_GETLINK, 0, &body, sizeof(body));
    struct nlmsghdr header;
    char answer[16384];
    request.header.nlmsg_flags = NLM_F_REQUEST;
    if (strlen(name) >= IFNAMSIZ)
        return ENAMETOOLONG;
    put_text(&request, IFLA_IFNAME, name);
    size_t got = send_and_receive(links, &request, answer, sizeof(answer));
    if (!got)
        return errno;
    memcpy(&header, answer, sizeof(header));
    if (header.nlmsg_type != RTM_NEWLINK || got < NLMSG_HDRLEN + sizeof(body))
        return error_in(answer) ? error_in(answer) : EPROTO;
    memcpy(&body, answer + NLMSG_HDRLEN, sizeof(body));
    *index = (uint32_t)body.ifi_index;
    return 0;
}

int open_links(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

int add_pair(int links, const char *here, const char *there, int there_namespace)
{
    struct ifinfomsg body = {.ifi_family = AF_UNSPEC}, none = {.ifi_family = AF_UNSPEC};
    struct request request = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof(body));
    if (strlen(here) >= IFNAMSIZ || strlen(there) >= IFNAMSIZ)
        return ENAMETOOLONG;
    put_text(&request, IFLA_IFNAME, here);
    struct rtattr *information = put(&request, IFLA_LINKINFO, NULL, 0);
    put(&request, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = put(&request, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = put(&request, VETH_INFO_PEER, &none, sizeof(none));
    put_text(&request, IFLA_IFNAME, there);
    put_number(&request, IFLA_NET_NS_FD, (uint32_t)there_namespace);
    close_nest(&request, peer);
    close_nest(&request, data);
    close_nest(&request, information);
    return ask(links, &request);
}

static int isolate(int links, uint32_t index)
{
    struct ifinfomsg body = {.ifi_family = AF_BRIDGE, .ifi_index = (int)index};
    struct request request = begin(RTM_SETLINK, 0, &body, sizeof(body));
    struct rtattr *port = put(&request, IFLA_PROTINFO | NLA_F_NESTED, NULL, 0);
    uint8_t on = 1;
    put(&request, IFLA_BRPORT_ISOLATED, &on, sizeof(on));
    close_nest(&request, port);
    return ask(links, &request);
}

int set_link(int links, const char *name, const char *attached_to, uint32_t mtu, int isolated)
{
    uint32_t index = 0, bridge = 0;
    int error = index_of(links, name, &index);
    if (!error && *attached_to)
        error = index_of(links, attached_to, &bridge);
    if (error)
        return error;
    struct ifinfomsg body = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index};
    body.ifi_flags = body.ifi_change = IFF_UP;
    struct request request = begin(RTM_NEWLINK, 0, &body, sizeof(body));
    if (bridge)
        put_number(&request, IFLA_MASTER, bridge);
    if (mtu)
        put_number(&request, IFLA_MTU, mtu);
    error = ask(links, &request);
    return error || !isolated ? error : isolate(links, index);
}

/* Its family and bytes; the answer is their number, 0 for what is no address. */
static size_t read_address(const char *text, unsigned char *family, unsigned char bytes[16])
{
    *family = strchr(text, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(*family, text, bytes) != 1)
        return 0;
    return *family == AF_INET6 ? 16 : 4;
}

int add_address(int links, const char *name, const char *address, uint32_t prefix)
{
    unsigned char bytes[16], family;
    uint32_t index = 0;
    size_t length = read_address(address, &family, bytes);
    int error = length ? index_of(links, name, &index) : EINVAL;
    if (error)
        return error;
    struct ifaddrmsg body = {.ifa_family = family, .ifa_prefixlen = (unsigned char)prefix, .ifa_index = index};
    if (family == AF_INET6)
        body.ifa_flags = IFA_F_NODAD; /* it is ours alone, and is to work at once */
    struct request request = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body, sizeof(body));
    put(&request, IFA_LOCAL, bytes, length);
    put(&request, IFA_ADDRESS, bytes, length);
    return ask(links, &request);
}

int add_route(int links, const char *destination, uint32_t prefix, const char *gateway, const char *name, int local)
{
    unsigned char to[16], via[16], family = AF_INET, via_family = AF_INET;
    uint32_t index = 0;
    size_t length = read_address(destination, &family, to);
    size_t via_length = *gateway ? read_address(gateway, &via_family, via) : 0;
    int error = length && (!*gateway || (via_length && via_family == family)) ? index_of(links, name, &index) : EINVAL;
    if (error)
        return error;
    struct rtmsg body = {.rtm_family = family, .rtm_dst_len = (unsigned char)prefix, .rtm_protocol = RTPROT_STATIC};
    body.rtm_table = RT_TABLE_MAIN;
    body.rtm_type = local ? RTN_LOCAL : RTN_UNICAST;
    body.rtm_scope = local ? RT_SCOPE_HOST : via_length ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    struct request request = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body, sizeof(body));
    if (prefix)
        put(&request, RTA_DST, to, length);
    if (via_length)
        put(&request, RTA_GATEWAY, via, via_length);
    put_number(&request, RTA_OIF, index);
    return ask(links, &request);
}

int watch_addresses(void)
{
    struct sockaddr_nl groups = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (fd < 0 || bind(fd, (struct sockaddr *)&groups, sizeof(groups)) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void take_address(int family, const void *address, take_address_fn *take, void *context)
{
    char text[INET6_ADDRSTRLEN];
    if (inet_ntop(family, address, text, sizeof(text)))
        take(text, context);
}

/* The kernel answers at both ends of a network of IPv4, too, whether an address for broadcast was given or not; where it
 * forwards, at the first of one of IPv6 (RFC 4291 2.6.1). */
static void take_ends(const unsigned char *address, size_t size, uint32_t prefix, take_address_fn *take, void *context)
{
    unsigned char first[16], last[16];
    if (prefix + 1 >= 8 * size)
        return;
    for (size_t at = 0; at < size; at++) {
        uint32_t left = prefix > 8 * at ? prefix - (uint32_t)(8 * at) : 0;
        unsigned char rest = left >= 8 ? 0 : (unsigned char)(0xFF >> left);
        first[at] = address[at] & (unsigned char)~rest;
        last[at] = address[at] | rest;
    }
    take_address(size == 4 ? AF_INET : AF_INET6, first, take, context);
    if (size == 4)
        take_address(AF_INET, last, take, context);
}

/* Its own address is the local one; where IPv6 has no peer, it has the other alone. */
static void read_new_address(const char *message, uint32_t length, take_address_fn *take, void *context)
{
    struct ifaddrmsg body;
    struct rtattr attribute;
    if (length < NLMSG_HDRLEN + sizeof(body))
        return;
    memcpy(&body, message + NLMSG_HDRLEN, sizeof(body));
    size_t size = body.ifa_family == AF_INET6 ? 16 : 4;
    const char *own = NULL, *other = NULL;
    for (size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(body)); at + sizeof(attribute) <= length;
         at += RTA_ALIGN(attribute.rta_len)) {
        const char *value = message + at + RTA_LENGTH(0);
        memcpy(&attribute, message + at, sizeof(attribute));
        if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > length - at)
            break;
        if (attribute.rta_len != RTA_LENGTH(size))
            continue;
        if (attribute.rta_type == IFA_LOCAL)
            own = value;
        else if (attribute.rta_type == IFA_ADDRESS)
            other = value;
        else if (attribute.rta_type == IFA_BROADCAST)
            take_address(body.ifa_family, value, take, context);
    }
    own = own ? own : other;
    if (!own)
        return;
    take_address(body.ifa_family, own, take, context);
    take_ends((const unsigned char *)own, size, body.ifa_prefixlen, take, context);
}

/* All there are, to be read as if they were new; those already known are as well taken twice. */
int ask_for_addresses(int watch)
{
    struct {
        struct nlmsghdr header;
        struct ifaddrmsg body;
    } all = {.header = {.nlmsg_len = sizeof(all), .nlmsg_type = RTM_GETADDR}};
    all.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    return send(watch, &all, sizeof(all), MSG_DONTWAIT) == sizeof(all) ? 0 : -1;
}

/* What one message of netlink was about. */
enum told { TOLD = 0, TORN = 1, REFUSED = -1 };

static enum told read_addresses(const char *messages, ssize_t got, take_address_fn *take, void *context)
{
    enum told told = TOLD;
    struct nlmsghdr header;
    struct nlmsgerr refused;
    for (ssize_t at = 0; got - at >= (ssize_t)sizeof(header); at += NLMSG_ALIGN((ssize_t)header.nlmsg_len)) {
        memcpy(&header, messages + at, sizeof(header));
        if (header.nlmsg_len < sizeof(header) || (ssize_t)header.nlmsg_len > got - at)
            break;
        if (header.nlmsg_flags & NLM_F_DUMP_INTR)
            told = TORN;
        if (header.nlmsg_type == RTM_NEWADDR)
            read_new_address(messages + at, header.nlmsg_len, take, context);
        if (header.nlmsg_type == NLMSG_ERROR && header.nlmsg_len >= NLMSG_LENGTH(sizeof(refused))) {
            memcpy(&refused, messages + at + NLMSG_HDRLEN, sizeof(refused));
            errno = -refused.error;
            if (refused.error == -EBUSY) /* all are being told of already */
                told = TORN;
            else if (refused.error)
                return REFUSED;
        }
    }
    return told;
}

/* While there is no room the kernel drops what is new without a word (netlink(7)): so it is asked for all of them once
 * everything has been taken, and not before. */
int take_new_addresses(int watch, take_address_fn *take, void *context)
{
    char messages[32768];
    for (int missed = 0;;) {
        ssize_t got = recv(watch, messages, sizeof(messages), MSG_DONTWAIT);
        enum told told = got > 0 ? read_addresses(messages, got, take, context) : TOLD;
        if (told == REFUSED)
            return -1;
        if (told == TORN || (got < 0 && errno == ENOBUFS))
            missed = 1;
        else if (got <= 0 && !missed)
            return 0;
        else if (got <= 0) {
            if (ask_for_addresses(watch) < 0)
                return -1;
            missed = 0;
        }
    }
}
