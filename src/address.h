/*-------------------------------------------------------------------------
 *
 * address.h
 *		Under which name an address is counted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_ADDRESS_H
#define TIERLIMIT_ADDRESS_H

#include "utils/inet.h"

#define MAX_ADDRESS_NAME sizeof("xxxx:xxxx:xxxx:xxxx:xxxx:xxxx:255.255.255.255/128")

/* The host itself, without a network; an IPv4-mapped IPv6 address as IPv4. */
extern inet_struct address_of_host(const inet *value);

/*
 * The name that a host is counted under, which is text that inet accepts: an
 * IPv4 address, or the /64 that an IPv6 address belongs to.  Returns its
 * length.
 */
extern int	address_name(const inet_struct *host, char name[MAX_ADDRESS_NAME]);

#endif							/* TIERLIMIT_ADDRESS_H */
