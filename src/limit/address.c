/*-------------------------------------------------------------------------
 *
 * address.c
 *		The name that an address is counted under.
 *
 * A client that has an IPv6 address mostly has all of its /64, and may use
 * another address of it for each call: so these count as one.  Some clients
 * are given more than that: tierlimit.ipv6_prefix says how many leading bits
 * count.  An IPv6 address that stands for an IPv4 one counts as the latter,
 * since all of IPv4 would count as one network otherwise:
 *
 *		::ffff:0:0/96	as a socket for both sees IPv4 (RFC 4291, section 2.5.5.2)
 *		64:ff9b::/96	as a NAT64 does (RFC 6052, section 2.1)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "base/compat.h"
#include "base/settings.h"
#include "limit/address.h"
#include "utils/builtins.h"

#define IPV4_BITS 32
#define IPV6_BITS 128

/* Offset of the IPv4 address in an IPv6 address that stands for one. */
#define EMBEDDED_OFFSET 12

/* Return whether this is an IPv6 address that stands for an IPv4 one. */
static bool
is_embedded(const inet_struct *address)
{
	static const unsigned char mapped[EMBEDDED_OFFSET] = {[10] = 0xff,[11] = 0xff};
	static const unsigned char nat64[EMBEDDED_OFFSET] = {[1] = 0x64,[2] = 0xff,[3] = 0x9b};

	return address->family == PGSQL_AF_INET6 &&
		(memcmp(address->ipaddr, mapped, EMBEDDED_OFFSET) == 0 ||
		 memcmp(address->ipaddr, nat64, EMBEDDED_OFFSET) == 0);
}

/*
 * Return the address itself, without a network.  An IPv6 address that stands
 * for an IPv4 one is returned as that.
 */
static inet_struct
host_of(const inet_struct *given)
{
	inet_struct host;

	memset(&host, 0, sizeof(host));
	if (given->family == PGSQL_AF_INET || is_embedded(given))
	{
		host.family = PGSQL_AF_INET;
		host.bits = IPV4_BITS;
		memcpy(host.ipaddr, given->family == PGSQL_AF_INET ? given->ipaddr
			   : given->ipaddr + EMBEDDED_OFFSET, IPV4_BITS / 8);
	}
	else
	{
		host.family = PGSQL_AF_INET6;
		host.bits = IPV6_BITS;
		memcpy(host.ipaddr, given->ipaddr, IPV6_BITS / 8);
	}
	return host;
}

/*
 * Return the host of an inet, without its network.  An IPv6 address that
 * stands for an IPv4 one is returned as that.
 */
inet_struct
address_of_host(const inet *value)
{
	return host_of((const inet_struct *) VARDATA_ANY(value));
}

/* Clear all but the leading bits. */
static void
mask_bits(unsigned char *bytes, int length, int bits)
{
	for (int i = 0; i < length; i++)
	{
		int			kept = Max(Min(bits - i * 8, 8), 0);

		bytes[i] &= (unsigned char) (0xff << (8 - kept));
	}
}

/*
 * Write the name that a host is counted under, which is text that inet
 * accepts: an IPv4 address, or the network that an IPv6 address belongs to.
 * Returns the name's length; raises an ERROR if the address can't be
 * formatted.
 */
int
address_name(const inet_struct *host, char name[MAX_ADDRESS_NAME])
{
	unsigned char bytes[IPV6_BITS / 8];
	int			bits = IPV4_BITS;

	memcpy(bytes, host->ipaddr, sizeof(bytes));
	if (host->family == PGSQL_AF_INET6)
	{
		bits = tierlimit_ipv6_prefix;
		mask_bits(bytes, sizeof(bytes), bits);
	}
	if (pg_inet_net_ntop(host->family, bytes, bits, name,
						 MAX_ADDRESS_NAME) == NULL)
		elog(ERROR, "could not format an address: %m");
	return strlen(name);
}

/*
 * Write the name that is meant by a text: an address as the log shows it, or
 * the network that an address is counted by.  Returns the name's length, or 0
 * if the text is neither.
 *
 * The parser takes 0 as the size for a CIDR network, -1 for a host with or
 * without its network.
 */
int
address_parse(const text *value, char name[MAX_ADDRESS_NAME])
{
	char		string[MAX_ADDRESS_NAME];
	inet_struct given;
	inet_struct host;
	int			bits;

	if (VARSIZE_ANY_EXHDR(value) >= sizeof(string))
		return 0;
	memset(&given, 0, sizeof(given));
	text_to_cstring_buffer(value, string, sizeof(string));
	given.family = strchr(string, ':') != NULL ? PGSQL_AF_INET6 : PGSQL_AF_INET;
	bits = pg_inet_net_pton(given.family, string, given.ipaddr, -1);
	host = host_of(&given);
	if (bits == (given.family == PGSQL_AF_INET6 ? IPV6_BITS : IPV4_BITS) ||
		(host.family == PGSQL_AF_INET6 && bits == tierlimit_ipv6_prefix))
		return address_name(&host, name);
	return 0;
}
