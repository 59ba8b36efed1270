/*-------------------------------------------------------------------------
 *
 * address.c
 *		Under which name an address is counted.
 *
 * Whoever has an IPv6 address mostly has all of its /64, and may use another
 * one of it for each call: so these count as one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "address.h"
#include "compat.h"

#define IPV4_BITS 32
#define IPV6_BITS 128
#define IPV6_NETWORK_BITS 64

/* Where an IPv4-mapped address, ::ffff:192.0.2.7, has the IPv4 address. */
#define MAPPED_OFFSET 12

static bool
is_mapped(const inet_struct *address)
{
	static const unsigned char prefix[MAPPED_OFFSET] = {[10] = 0xff,[11] = 0xff};

	return address->family == PGSQL_AF_INET6 &&
		memcmp(address->ipaddr, prefix, MAPPED_OFFSET) == 0;
}

inet_struct
address_of_host(const inet *value)
{
	const inet_struct *given = (const inet_struct *) VARDATA_ANY(value);
	inet_struct host;

	memset(&host, 0, sizeof(host));
	if (given->family == PGSQL_AF_INET || is_mapped(given))
	{
		host.family = PGSQL_AF_INET;
		host.bits = IPV4_BITS;
		memcpy(host.ipaddr, given->family == PGSQL_AF_INET ? given->ipaddr
			   : given->ipaddr + MAPPED_OFFSET, IPV4_BITS / 8);
	}
	else
	{
		host.family = PGSQL_AF_INET6;
		host.bits = IPV6_BITS;
		memcpy(host.ipaddr, given->ipaddr, IPV6_BITS / 8);
	}
	return host;
}

int
address_name(const inet_struct *host, char name[MAX_ADDRESS_NAME])
{
	unsigned char bytes[IPV6_BITS / 8];
	int			bits = IPV4_BITS;

	memcpy(bytes, host->ipaddr, sizeof(bytes));
	if (host->family == PGSQL_AF_INET6)
	{
		bits = IPV6_NETWORK_BITS;
		memset(bytes + IPV6_NETWORK_BITS / 8, 0,
			   (IPV6_BITS - IPV6_NETWORK_BITS) / 8);
	}
	if (pg_inet_net_ntop(host->family, bytes, bits, name,
						 MAX_ADDRESS_NAME) == NULL)
		elog(ERROR, "could not format an address: %m");
	return strlen(name);
}
