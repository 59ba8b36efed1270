/*-------------------------------------------------------------------------
 *
 * subject.h
 *		The subjects that are counted, and what memory keeps of them.
 *
 * A subject is what is counted under a name: a key, an account that several
 * keys share, an address, or a caller without a key; other things that are
 * remembered by a name are subjects, too.  Where a function takes or returns a
 * subject, the lock of its partition is needed: SHARED to look, EXCLUSIVE to
 * change.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_SUBJECT_H
#define TIERLIMIT_SUBJECT_H

#include "base/installation.h"
#include "store/store.h"
#include "window/window.h"

#define MAX_NAME_LENGTH 255		/* bytes */

/* The kinds of names; two subjects of different kinds may share a name. */
typedef enum SubjectKind
{
	SUBJECT_KEY,
	SUBJECT_ACCOUNT,
	SUBJECT_ADDRESS,			/* named as address.c does */
	SUBJECT_ANONYMOUS,			/* callers without a key, named in the same
								 * way */
	SUBJECT_NOBODY,				/* all that have no address either, as one */
	SUBJECT_SECRET,				/* counts nothing: a hash, and the key that it
								 * belongs to */
	SUBJECT_RETRY				/* counts nothing: see retry.c */
} SubjectKind;

/* The name that a subject is found by.  Its bytes stay the caller's. */
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
	RECORD_UNKNOWN,				/* it was not looked up, or not kept */
	RECORD_ABSENT,				/* there is nothing of that name */
	RECORD_PRESENT
} RecordState;

/*
 * So many bytes fit into the subject's own block: those of the name, then the
 * record.
 */
#define SUBJECT_ROOM 64

/* A subject is one block, and the chains that start from it. */
typedef struct Subject
{
	BlockNo		next;			/* the next one in its bucket */
	uint32		tag;			/* upper half of the hash */
	InstallationId installation;
	uint8		kind;			/* SubjectKind */
	uint8		clock_source;	/* ClockSource that the clock was read from */
	uint8		record_state;	/* RecordState */
	uint8		name_length;
	bool		claimed;		/* a session has claimed it; no other one may
								 * change its windows meanwhile */
	uint16		record_length;
	BlockNo		windows;		/* SubjectWindows */
	BlockNo		name_rest;		/* bytes of the name that didn't fit */
	BlockNo		record;			/* it, if there is no room for it here */
	uint32		record_generation;	/* generation of its mark, when it was
									 * read */
	uint32		record_definition;	/* version of the table api_key, when it
									 * was read */
	TimestampTz clock;			/* time of the newest decision */
	uint64		log_position;	/* end position of its newest row in the log's
								 * queue */
	char		bytes[SUBJECT_ROOM];
} Subject;

/* What tells the windows of a subject apart. */
typedef struct WindowId
{
	int64		period;			/* in microseconds; calendar: the nominal
								 * length */
	uint64		phase;			/* calendar: where its periods begin */
	uint8		kind;			/* WindowKind */
	uint8		unit;			/* Unit */
} WindowId;

/*
 * A window of a subject, in one block.  Its WindowId is in here, but each part
 * in one place only.
 */
typedef struct SubjectWindow
{
	BlockNo		next;			/* the next window of the same subject */
	uint8		unit;			/* Unit */
	Window		window;
} SubjectWindow;

extern SubjectName subject_name(InstallationId installation, SubjectKind kind,
								const char *name, int length);
extern Subject *subject_find(const SubjectName *name);
extern uint32 subject_blocks(const SubjectName *name);
extern Subject *subject_create(const SubjectName *name, BlockList *spare);
extern void subject_remove_at(uint64 hash, BlockNo *link, BlockList *spare);
extern void subject_get_name(const Subject *subject, char *name);
extern SubjectWindow *subject_window_at(BlockNo block);
extern WindowId subject_window_id(const SubjectWindow *window);
extern SubjectWindow *subject_find_window(const Subject *subject,
										  const WindowId *id);
extern SubjectWindow *subject_add_window(Subject *subject, const WindowId *id,
										 BlockList *spare);
extern void subject_drop_window(Subject *subject, SubjectWindow *window,
								BlockList *spare);
extern void subject_drop_windows(Subject *subject, BlockList *spare);
extern bool subject_is_ahead(const Subject *subject, Clock clock);
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
