/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The configuration parameters tierlimit.*.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SETTINGS_H
#define TIERLIMIT_SETTINGS_H

extern int	tierlimit_memory;	/* shared memory for windows, in kB */
extern int	tierlimit_window_slots;
extern bool tierlimit_enabled;
extern char *tierlimit_now;		/* "" or a valid timestamptz */

/* Define the parameters; from _PG_init, while libraries are preloaded. */
extern void settings_define(void);

#endif							/* TIERLIMIT_SETTINGS_H */
