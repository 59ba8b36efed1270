/*-------------------------------------------------------------------------
 *
 * subject.c
 *		The subjects that are counted, and what memory keeps of them.
 *
 *		bucket -> Subject -> Subject -> ...			(next)
 *					|-> SubjectWindow -> ...		(windows), their histories
 *					|-> bytes -> ...				(name_rest)
 *					'-> bytes -> ...				(record, if it is long)
 *
 * A new subject goes to the end of its bucket's chain: keys that are in use
 * for long are found without a look at those that come and go.
 *
 * Each of these is a block.  A subject without windows is one whose row of
 * api_key was asked for; such a subject, and one whose windows have run empty,
 * can be removed at any time, for example by the sweep (sweep.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "store/subject.h"

/* A piece of a string that is longer than its owner's block holds. */
typedef struct BytesBlock
{
	BlockNo		next;
	char		bytes[BLOCK_SIZE - sizeof(BlockNo)];
} BytesBlock;

#define BYTES_PER_BLOCK ((int) sizeof(((BytesBlock *) NULL)->bytes))

StaticAssertDecl(sizeof(Subject) <= BLOCK_SIZE, "a subject is a block");
StaticAssertDecl(sizeof(SubjectWindow) <= BLOCK_SIZE, "a window is a block");

/* Return the piece in a block. */
static inline BytesBlock *
bytes_at(BlockNo block)
{
	return (BytesBlock *) &store->blocks[block];
}

/*
 * Return how many blocks so many bytes take; none, if length is not positive.
 */
static uint32
bytes_blocks(int length)
{
	return length <= 0 ? 0 : (length + BYTES_PER_BLOCK - 1) / BYTES_PER_BLOCK;
}

/*
 * Write bytes into a chain of blocks out of the spare blocks, and return the first
 * one.
 */
static BlockNo
bytes_write(const char *from, int length, BlockList *spare)
{
	BlockNo		head = NO_BLOCK;
	BlockNo    *link = &head;

	while (length > 0)
	{
		int			piece = Min(length, BYTES_PER_BLOCK);

		*link = blocklist_take(spare);
		memcpy(bytes_at(*link)->bytes, from, piece);
		from += piece;
		length -= piece;
		link = &bytes_at(*link)->next;
		*link = NO_BLOCK;
	}
	return head;
}

/* Copy so many bytes out of a chain of blocks. */
static void
bytes_read(BlockNo block, char *to, int length)
{
	for (; length > 0; block = bytes_at(block)->next)
	{
		int			piece = Min(length, BYTES_PER_BLOCK);

		memcpy(to, bytes_at(block)->bytes, piece);
		to += piece;
		length -= piece;
	}
}

/* Return whether a chain of blocks has the same bytes. */
static bool
bytes_equal(BlockNo block, const char *other, int length)
{
	for (; length > 0; block = bytes_at(block)->next)
	{
		int			piece = Min(length, BYTES_PER_BLOCK);

		if (memcmp(other, bytes_at(block)->bytes, piece) != 0)
			return false;
		other += piece;
		length -= piece;
	}
	return true;
}

/* Put the blocks of a chain into the spare blocks. */
static void
bytes_free(BlockNo block, BlockList *spare)
{
	while (block != NO_BLOCK)
	{
		BlockNo		next = bytes_at(block)->next;

		blocklist_put(spare, block);
		block = next;
	}
}

/*
 * Return the name of a subject, with its hash, and have the processor fetch
 * what leads to the subject.  The name has 1 to MAX_NAME_LENGTH bytes, which
 * stay the caller's.  Needs no lock.
 */
SubjectName
subject_name(InstallationId installation, SubjectKind kind, const char *name, int length)
{
	SubjectName subject = {installation, kind, name, length, store->seed};

	Assert(length > 0 && length <= MAX_NAME_LENGTH);
	subject.hash ^= (uint64) installation.database << 32 | (installation.extension_id ^ (uint32) kind);
	subject.hash = hash_bytes_extended((const unsigned char *) name, length,
									   subject.hash);
	store_prefetch_bucket(subject.hash);
	return subject;
}

/* Return how many bytes of a name are in the subject's own block. */
static inline int
inlined(int name_length)
{
	return Min(name_length, SUBJECT_ROOM);
}

/*
 * Return whether a subject has this name.  Whole names are compared: a hash
 * that agrees is not enough.
 */
static bool
subject_is(const Subject *subject, const SubjectName *name)
{
	int			here = inlined(name->length);

	return subject->tag == (uint32) (name->hash >> 32) &&
		subject->name_length == name->length &&
		subject->kind == name->kind &&
		installation_is(subject->installation, name->installation) &&
		memcmp(subject->bytes, name->name, here) == 0 &&
		bytes_equal(subject->name_rest, name->name + here,
					name->length - here);
}

/*
 * Return the link that leads to the subject, or the NO_BLOCK at the end of its
 * bucket's chain.
 */
static BlockNo *
find_link(const SubjectName *name)
{
	BlockNo    *link = store_bucket(name->hash);

	while (*link != NO_BLOCK && !subject_is(subject_at(*link), name))
		link = &subject_at(*link)->next;
	return link;
}

/*
 * Return the subject of this name; NULL if it is not in memory.  The lock of
 * its partition is needed at least SHARED, and for as long as the subject is
 * used.
 */
Subject *
subject_find(const SubjectName *name)
{
	BlockNo		block = *find_link(name);

	return block == NO_BLOCK ? NULL : subject_at(block);
}

/*
 * Return how many blocks subject_create() takes for this name.  Needs no lock.
 */
uint32
subject_blocks(const SubjectName *name)
{
	return 1 + bytes_blocks(name->length - SUBJECT_ROOM);
}

/* Return whether the statistics count the subject as a key. */
static bool
counts_as_key(const Subject *subject)
{
	return subject->kind <= SUBJECT_NOBODY;
}

/*
 * Create a subject that is not in memory, without windows and record, out of
 * subject_blocks() blocks of the spare blocks.  The lock of its partition is needed
 * EXCLUSIVE.
 */
Subject *
subject_create(const SubjectName *name, BlockList *spare)
{
	int			here = inlined(name->length);
	BlockNo    *link = find_link(name);
	BlockNo		block = blocklist_take(spare);
	Subject    *subject = subject_at(block);

	Assert(partition_locked(name->hash, LW_EXCLUSIVE));
	Assert(*link == NO_BLOCK);
	memset(subject, 0, sizeof(Subject));
	subject->tag = (uint32) (name->hash >> 32);
	subject->installation = name->installation;
	subject->kind = name->kind;
	subject->clock = PG_INT64_MIN;
	subject->name_length = name->length;
	memcpy(subject->bytes, name->name, here);
	subject->name_rest = bytes_write(name->name + here, name->length - here,
									 spare);
	*link = block;
	store_stats(name->hash)->keys += counts_as_key(subject);
	if (subject->kind == SUBJECT_RETRY)
		pg_atomic_fetch_add_u32(&store->answers, 1);
	return subject;
}

/*
 * Remove the subject that *link, in the chain of the hash's bucket, leads to,
 * with all that it has; its blocks go to the spare blocks.  The lock of its partition
 * is needed EXCLUSIVE.
 */
void
subject_remove_at(uint64 hash, BlockNo *link, BlockList *spare)
{
	BlockNo		block = *link;
	Subject    *subject = subject_at(block);

	subject_drop_windows(subject, spare);
	bytes_free(subject->name_rest, spare);
	bytes_free(subject->record, spare);
	*link = subject->next;
	store_stats(hash)->keys -= counts_as_key(subject);
	if (subject->kind == SUBJECT_RETRY)
		pg_atomic_fetch_sub_u32(&store->answers, 1);
	blocklist_put(spare, block);
}

/*
 * Copy the name_length bytes of the subject's name out; there is no
 * terminator.
 */
void
subject_get_name(const Subject *subject, char *name)
{
	int			here = inlined(subject->name_length);

	memcpy(name, subject->bytes, here);
	bytes_read(subject->name_rest, name + here, subject->name_length - here);
}

/*
 * Return the window in a block; NULL for NO_BLOCK.  A subject's windows are in
 * no order that matters.
 */
SubjectWindow *
subject_window_at(BlockNo block)
{
	return (SubjectWindow *) (block == NO_BLOCK ? NULL : &store->blocks[block]);
}

/* Return what tells a window from others of its subject. */
WindowId
subject_window_id(const SubjectWindow *window)
{
	const Window *w = &window->window;
	bool		calendar = w->kind == WINDOW_CALENDAR;
	WindowId	id = {
		.period = calendar ? w->calendar.period : w->sliding.period,
		.phase = calendar ? w->calendar.phase : 0,
		.kind = w->kind,
		.unit = window->unit
	};

	return id;
}

/* Return whether a window has this id. */
static bool
window_is(const SubjectWindow *window, const WindowId *id)
{
	WindowId	own = subject_window_id(window);

	return own.unit == id->unit && own.kind == id->kind &&
		own.period == id->period && own.phase == id->phase;
}

/* Return the subject's window with this id; NULL if there is none. */
SubjectWindow *
subject_find_window(const Subject *subject, const WindowId *id)
{
	SubjectWindow *window = subject_window_at(subject->windows);

	while (window != NULL && !window_is(window, id))
		window = subject_window_at(window->next);
	return window;
}

/*
 * Add a window with this id to a subject, which takes one block of the spare blocks.
 * The caller has to initialise it.  The lock of the partition is needed
 * EXCLUSIVE.
 */
SubjectWindow *
subject_add_window(Subject *subject, const WindowId *id, BlockList *spare)
{
	BlockNo		block = blocklist_take(spare);
	SubjectWindow *window = subject_window_at(block);

	window->unit = id->unit;
	window->next = subject->windows;
	subject->windows = block;
	return window;
}

/*
 * Remove a window of a subject; its blocks go to the spare blocks.  The lock of the
 * partition is needed EXCLUSIVE.
 */
void
subject_drop_window(Subject *subject, SubjectWindow *window, BlockList *spare)
{
	BlockNo    *link = &subject->windows;
	BlockNo		block;

	while (subject_window_at(*link) != window)
		link = &subject_window_at(*link)->next;
	block = *link;
	*link = window->next;
	window_clear(&window->window, spare);
	blocklist_put(spare, block);
}

/*
 * Remove all windows of a subject: its next call fills them from the log.
 * Their blocks go to the spare blocks.  The lock of the partition is needed
 * EXCLUSIVE.
 */
void
subject_drop_windows(Subject *subject, BlockList *spare)
{
	while (subject->windows != NO_BLOCK)
		subject_drop_window(subject, subject_window_at(subject->windows), spare);
}

/*
 * Return whether the subject has decided later than can be by this clock.  The
 * clock is read once more before it is called wrong, since this process may
 * have stood still after it was read.
 */
bool
subject_is_ahead(const Subject *subject, Clock clock)
{
	return subject->clock - CLOCK_TOLERANCE > clock.now &&
		subject->clock - CLOCK_TOLERANCE > clock_read_again(clock).now;
}

int
subject_count_windows(const Subject *subject)
{
	int			count = 0;

	for (SubjectWindow *window = subject_window_at(subject->windows);
		 window != NULL; window = subject_window_at(window->next))
		count++;
	return count;
}

/* Bytes that do not fit into the subject's own block have further ones. */
uint32
subject_count_blocks(const Subject *subject)
{
	uint32		blocks = 1;

	for (BlockNo at = subject->name_rest; at != NO_BLOCK; at = bytes_at(at)->next)
		blocks++;
	for (BlockNo at = subject->record; at != NO_BLOCK; at = bytes_at(at)->next)
		blocks++;
	for (SubjectWindow *window = subject_window_at(subject->windows);
		 window != NULL; window = subject_window_at(window->next))
		blocks += 1 + window_blocks(&window->window, store->blocks);
	return blocks;
}

/*
 * Return from when on none of the subject's windows counts anything; INT64_MIN
 * if none does already.
 */
TimestampTz
subject_empty_at(const Subject *subject)
{
	TimestampTz empty_at = PG_INT64_MIN;
	SubjectWindow *window;

	for (window = subject_window_at(subject->windows); window != NULL;
		 window = subject_window_at(window->next))
		empty_at = Max(empty_at, window_empty_at(&window->window));
	return empty_at;
}

/*
 * Return whether a record has room in its subject's own block, after the name.
 */
static inline bool
fits_here(int name_length, int record_length)
{
	return inlined(name_length) + record_length <= SUBJECT_ROOM;
}

/*
 * Return how many blocks subject_set_record() takes for so many bytes of a
 * record of the subject of this name.  Needs no lock.
 */
uint32
record_blocks(const SubjectName *name, int length)
{
	return fits_here(name->length, length) ? 0 : bytes_blocks(length);
}

/*
 * Replace what is kept as the subject's record; takes up to record_blocks()
 * blocks of the spare blocks, to which those of the old record go.  The length is 0
 * if state is not RECORD_PRESENT.  The lock of the partition is needed
 * EXCLUSIVE.
 */
void
subject_set_record(Subject *subject, RecordState state, const char *record,
				   int length, BlockList *spare)
{
	bytes_free(subject->record, spare);
	subject->record = NO_BLOCK;
	if (fits_here(subject->name_length, length))
		memcpy(subject->bytes + inlined(subject->name_length), record, length);
	else
		subject->record = bytes_write(record, length, spare);
	subject->record_length = length;
	subject->record_state = state;
}

/* Copy the record_length bytes of the subject's record out. */
void
subject_get_record(const Subject *subject, char *record)
{
	if (subject->record != NO_BLOCK)
		bytes_read(subject->record, record, subject->record_length);
	else
		memcpy(record, subject->bytes + inlined(subject->name_length),
			   subject->record_length);
}
