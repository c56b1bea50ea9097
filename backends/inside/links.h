/* rtnetlink(7), in the namespace of the socket `links`: of the launcher and of the agent. Addresses are texts; "" is
 * none. All but open_links() answer 0 or an errno. */
#ifndef MXC_LINKS_H
#define MXC_LINKS_H

#include <stdint.h>

int open_links(void); /* -1 with errno */

/* A veth pair: `there` goes to the namespace of that descriptor. */
int add_pair(int links, const char *here, const char *there, int there_namespace);

/* Up, attached to a bridge if one is named; `mtu` 0 leaves that as it is. `isolated`: what else is attached to the
 * bridge, and isolated too, is out of its reach. */
int set_link(int links, const char *name, const char *attached_to, uint32_t mtu, int isolated);

int add_address(int links, const char *name, const char *address, uint32_t prefix);

/* `local`: whatever is sent there arrives here. */
int add_route(int links, const char *destination, uint32_t prefix, const char *gateway, const char *name, int local);

/* A socket that becomes readable when addresses are new in this namespace. This and the next two: -1 with errno. */
int watch_addresses(void);

/* Have it tell of all that are there, as if they were new. */
int ask_for_addresses(int watch);

/* Each that it tells of. */
typedef void take_address_fn(const char *address, void *context);
int take_new_addresses(int watch, take_address_fn *take, void *context);

#endif
