/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The background worker that writes the request log of a database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_WORKER_H
#define TIERLIMIT_WORKER_H

/* What the launcher tells a writer that it starts. */
typedef struct WriterOrders
{
	Oid			database;
	bool		visits;			/* nobody has called: it is to do what is due,
								 * and to leave */
} WriterOrders;

#endif							/* TIERLIMIT_WORKER_H */
