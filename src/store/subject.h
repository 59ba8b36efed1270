/*-------------------------------------------------------------------------
 *
 * subject.h
 *		Who is being counted, and what is kept in memory about them.
 *
 * A subject is whoever is counted under a name: a key, an account that several
 * keys share, an address, or a caller without a key; and what else is remembered
 * by a name.  Where a
 * function takes or returns a subject, the lock of its partition is needed:
 * SHARED to look, EXCLUSIVE to change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SUBJECT_H
#define TIERLIMIT_SUBJECT_H

#include "base/installation.h"
#include "store/store.h"
#include "window/window.h"

#define MAX_NAME_LENGTH 255		/* bytes */

typedef enum SubjectKind
{
	SUBJECT_KEY,
	SUBJECT_ACCOUNT,
	SUBJECT_ADDRESS,			/* named as address.c does */
	SUBJECT_ANONYMOUS,			/* who calls without a key, named likewise */
	SUBJECT_NOBODY,				/* all who have no address either */
	SUBJECT_SECRET,				/* counts nothing: a hash, and whose key it is */
	SUBJECT_RETRY				/* counts nothing: see retry.c */
} SubjectKind;

/* What a subject is found by.  The bytes of the name are the caller's. */
typedef struct SubjectName
{
	InstallationId installation;
	SubjectKind kind;
	const char *name;			/* 1 to MAX_NAME_LENGTH bytes, no terminator */
	int			length;
	uint64		hash;
} SubjectName;

/* What is known of what a name stands for; see apikey.c, retry.c. */
typedef enum RecordState
{
	RECORD_UNKNOWN,				/* not looked up, or not kept */
	RECORD_ABSENT,				/* there is nothing of that name */
	RECORD_PRESENT
} RecordState;

/* Bytes that fit into the subject's own block: of the name, then the record. */
#define SUBJECT_ROOM 64

/* A subject is one block, and the chains that start from it. */
typedef struct Subject
{
	BlockNo		next;			/* in its bucket */
	uint32		tag;			/* upper half of the hash */
	InstallationId installation;
	uint8		kind;			/* SubjectKind */
	uint8		clock_source;	/* ClockSource that clock was read from */
	uint8		record_state;	/* RecordState */
	uint8		name_length;
	bool		claimed;		/* somebody reads its windows from the log;
								 * nobody may change them meanwhile */
	bool		gave_back;		/* units of calls that were not named */
	uint16		record_length;
	BlockNo		windows;		/* SubjectWindows */
	BlockNo		name_rest;		/* bytes of the name that didn't fit */
	BlockNo		record;			/* packed, if there is no room for it here */
	uint32		record_generation;	/* of its mark, when it was read */
	uint32		record_definition;	/* of the table, likewise */
	TimestampTz clock;			/* time of the newest decision */
	uint64		log_position;	/* behind its newest row in the log's queue */
	char		bytes[SUBJECT_ROOM];
} Subject;

/* What tells the windows of a subject apart. */
typedef struct WindowId
{
	int64		period;			/* microseconds; calendar: nominal ones */
	uint64		phase;			/* calendar: where its periods begin */
	uint8		kind;			/* WindowKind */
	uint8		unit;			/* Unit */
} WindowId;

/* One block.  Its WindowId is in here, but each part in one place only. */
typedef struct SubjectWindow
{
	BlockNo		next;			/* window of the same subject */
	uint8		unit;			/* Unit */
	Window		window;
} SubjectWindow;

extern SubjectName subject_name(InstallationId installation, SubjectKind kind,
								const char *name, int length);

/* NULL if the subject is not in memory. */
extern Subject *subject_find(const SubjectName *name);

/* Create a subject that is not there; takes subject_blocks() blocks. */
extern uint32 subject_blocks(const SubjectName *name);
extern Subject *subject_create(const SubjectName *name, BlockList *spare);

/* Remove the subject that *link, in its bucket's chain, names. */
extern void subject_remove_at(uint64 hash, BlockNo *link, BlockList *spare);

/* Copy the name's name_length bytes out. */
extern void subject_get_name(const Subject *subject, char *name);

/* The windows of a subject, in no order that matters. */
extern SubjectWindow *subject_window_at(BlockNo block);
extern WindowId subject_window_id(const SubjectWindow *window);
extern SubjectWindow *subject_find_window(const Subject *subject,
										  const WindowId *id);

/* The new window, to be initialised by the caller, takes one block. */
extern SubjectWindow *subject_add_window(Subject *subject, const WindowId *id,
										 BlockList *spare);
extern void subject_drop_window(Subject *subject, SubjectWindow *window,
								BlockList *spare);

/* All of them: the subject's next call fills them from the log. */
extern void subject_drop_windows(Subject *subject, BlockList *spare);

/*
 * Whether it has decided later than can be by this clock, which is read once more,
 * since we may have stood still after we had read it.
 */
extern bool subject_is_ahead(const Subject *subject, Clock clock);

/* From when on none of its windows counts anything; INT64_MIN: already. */
extern TimestampTz subject_empty_at(const Subject *subject);

/* How many windows it has, and blocks in all. */
extern int	subject_count_windows(const Subject *subject);
extern uint32 subject_count_blocks(const Subject *subject);

/*
 * Replace what is kept as the subject's record; takes up to record_blocks()
 * blocks.  Length is 0 if state is not RECORD_PRESENT.
 */
extern uint32 record_blocks(const SubjectName *name, int length);
extern void subject_set_record(Subject *subject, RecordState state,
							   const char *record, int length, BlockList *spare);

/* Copy the record's record_length bytes out. */
extern void subject_get_record(const Subject *subject, char *record);

static inline Subject *
subject_at(BlockNo block)
{
	return (Subject *) &store->blocks[block];
}

/* Time goes on for a subject, never back. */
static inline void
subject_move_clock(Subject *subject, Clock clock)
{
	if (clock.now > subject->clock)
	{
		subject->clock = clock.now;
		subject->clock_source = clock.source;
	}
}

#endif							/* TIERLIMIT_SUBJECT_H */
