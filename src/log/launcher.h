/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The background worker that starts the log writers of databases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_LAUNCHER_H
#define TIERLIMIT_LAUNCHER_H

extern void launcher_register(void);

#endif							/* TIERLIMIT_LAUNCHER_H */
