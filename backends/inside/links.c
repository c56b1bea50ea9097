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

/* 0 or an errno: the kernel answers each request with one. */
static int ask(int links, struct request *request)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(links, request, request->header.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return errno;
    char answer[4096];
    ssize_t got;
    do
        got = recv(links, answer, sizeof(answer), 0);
    while (got < 0 && errno == EINTR);
    struct nlmsghdr header;
    struct nlmsgerr error;
    if (got < (ssize_t)(sizeof(header) + sizeof(error.error)))
        return got < 0 ? errno : EPROTO;
    memcpy(&header, answer, sizeof(header));
    memcpy(&error.error, answer + NLMSG_HDRLEN, sizeof(error.error));
    return header.nlmsg_type == NLMSG_ERROR ? -error.error : EPROTO;
}

/* By the socket's own namespace, which need not be the one that we are in; 0 with errno. */
static int index_of(int links, const char *name, uint32_t *index)
{
    struct ifinfomsg body = {.ifi_family = AF_UNSPEC};
    struct request request = begin(RTM_GETLINK, 0, &body, sizeof(body));
    request.header.nlmsg_flags = NLM_F_REQUEST;
    put_text(&request, IFLA_IFNAME, name);
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(links, &request, request.header.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return errno;
    char answer[16384];
    ssize_t got = recv(links, answer, sizeof(answer), 0);
    struct nlmsghdr header;
    if (got < (ssize_t)sizeof(header) + 4)
        return got < 0 ? errno : EPROTO;
    memcpy(&header, answer, sizeof(header));
    if (header.nlmsg_type == NLMSG_ERROR) {
        int32_t error;
        memcpy(&error, answer + NLMSG_HDRLEN, sizeof(error));
        return error ? -error : EPROTO;
    }
    struct ifinfomsg found;
    if (header.nlmsg_type != RTM_NEWLINK || got < (ssize_t)(NLMSG_HDRLEN + sizeof(found)))
        return EPROTO;
    memcpy(&found, answer + NLMSG_HDRLEN, sizeof(found));
    *index = (uint32_t)found.ifi_index;
    return 0;
}

int open_links(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

int add_pair(int links, const char *inside, const char *outside, int outside_namespace)
{
    struct ifinfomsg body = {.ifi_family = AF_UNSPEC}, none = {.ifi_family = AF_UNSPEC};
    struct request request = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof(body));
    put_text(&request, IFLA_IFNAME, inside);
    struct rtattr *information = put(&request, IFLA_LINKINFO, NULL, 0);
    put(&request, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = put(&request, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = put(&request, VETH_INFO_PEER, &none, sizeof(none));
    put_text(&request, IFLA_IFNAME, outside);
    put_number(&request, IFLA_NET_NS_FD, (uint32_t)outside_namespace);
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

int set_link(int links, const char *name, const char *attached_to, uint32_t mtu, int alone)
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
    return error || !alone ? error : isolate(links, index);
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
