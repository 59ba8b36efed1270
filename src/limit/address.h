/*-------------------------------------------------------------------------
 *
 * address.h
 *		The name that an address is counted under.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_ADDRESS_H
#define TIERLIMIT_ADDRESS_H

#include "utils/inet.h"

#define MAX_ADDRESS_NAME sizeof("xxxx:xxxx:xxxx:xxxx:xxxx:xxxx:255.255.255.255/128")

extern inet_struct address_of_host(const inet *value);
extern int	address_name(const inet_struct *host, char name[MAX_ADDRESS_NAME]);
extern int	address_parse(const text *value, char name[MAX_ADDRESS_NAME]);

#endif							/* TIERLIMIT_ADDRESS_H */
