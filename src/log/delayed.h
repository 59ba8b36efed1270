/*-------------------------------------------------------------------------
 *
 * delayed.h
 *		Denied calls that wait until their second is over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_DELAYED_H
#define TIERLIMIT_DELAYED_H

#include "log/logrow.h"
#include "log/queue.h"

extern void delayed_init(void);
extern int	delayed_rows(void);
extern bool delayed_is_full(const LogQueue *queue, int max);
extern void delayed_add(const LogRow *row, uint64 batch);
extern int	delayed_take(LogRow **rows, int room, bool everything);
extern void delayed_written(void);
extern void delayed_keep_room(LogQueue *queue);
extern void delayed_put_back(LogQueue *queue, uint64 batch);

#endif							/* TIERLIMIT_DELAYED_H */
