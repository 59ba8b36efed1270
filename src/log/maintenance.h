/*-------------------------------------------------------------------------
 *
 * maintenance.h
 *		Keeping the request log: its partitions and its sums.
 *
 * All of these functions run in the log writer's process, and may raise an
 * ERROR; all but maintenance_is_due() run in a transaction of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_MAINTENANCE_H
#define TIERLIMIT_MAINTENANCE_H

#include "datatype/timestamp.h"

extern TimestampTz maintenance_summed_until(void);
extern void maintenance_prepare(void);
extern bool maintenance_is_due(void);
extern void maintenance_set_visit(bool visit);
extern void maintenance_run(void);

#endif							/* TIERLIMIT_MAINTENANCE_H */
