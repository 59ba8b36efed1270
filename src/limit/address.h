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

/* The host itself, without a network; one that stands for an IPv4 host as that. */
extern inet_struct address_of_host(const inet *value);

/*
 * The name that a host is counted under, which is text that inet accepts: an
 * IPv4 address, or the network that an IPv6 address belongs to.  Returns its
 * length.
 */
extern int	address_name(const inet_struct *host, char name[MAX_ADDRESS_NAME]);

/*
 * Likewise for a text that names an address as the log shows it, or the network
 * that it is counted by; 0 if it doesn't.
 */
extern int	address_parse(const text *value, char name[MAX_ADDRESS_NAME]);

#endif							/* TIERLIMIT_ADDRESS_H */
