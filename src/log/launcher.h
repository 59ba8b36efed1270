/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The background worker that starts the log writers of databases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LAUNCHER_H
#define TIERLIMIT_LAUNCHER_H

/* Have the server start it; from _PG_init, while libraries are preloaded. */
extern void launcher_register(void);

#endif							/* TIERLIMIT_LAUNCHER_H */
