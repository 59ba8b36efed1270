/*-------------------------------------------------------------------------
 *
 * spill.c
 *		The file that keeps what is still queued when the server stops.
 *
 * A writer that is told to leave writes all that its database has decided.
 * But there may be no writer: it had just been asked for, or the server had no
 * place for it.  Or it could not write, since a session had locked the log, or
 * the disk was full.  So when the last process has gone, the postmaster writes
 * what is left in the queues to a file, and reads it at the next start, in the
 * way of pg_stat_statements.
 *
 * Only an orderly stop leaves a file: after any other one, some of what is in
 * the queues may have been committed already.  The file belongs to the
 * checkpoint that the server stopped with, and is good only as long as
 * pg_control says that this was the last thing to happen: so nothing can be
 * read twice, whatever becomes of the file, and a start that fails, over and
 * over, loses nothing.  When the server is open the file is removed.  From
 * then on a crash loses what was not written yet, as it does of all decisions.
 * A server that starts as a standby, or to recover from a backup, does not use
 * it, since the rows may have come to it, or may still come, in the log of a
 * server that had the same file.  A file that is not used is kept under
 * another name.
 *
 * A queue goes back to its place as it was, byte by byte, so the buffer has to
 * be as large as it was: it is, until the next start, even if
 * tierlimit.log_buffer was changed meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "log/queue.h"
#include "log/spill.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#define SPILL_FILE "pg_stat/tierlimit.queue"
#define UNUSED_FILE SPILL_FILE ".unused"

/*
 * This number changes with the layout of the file, and with that of rows in a
 * queue.
 */
#define SPILL_FORMAT 0x746c0002

typedef struct SpillHeader
{
	uint32		format;
	pg_crc32c	crc;			/* checksum of all that follows these two */
	uint64		system_identifier;
	XLogRecPtr	checkpoint;		/* the one that the server stopped with */
	uint64		buffer_size;
	uint64		nqueues;		/* SpilledQueues follow, each with its bytes */
} SpillHeader;

typedef struct SpilledQueue
{
	uint32		number;
	Oid			database;
	uint64		tail;
	uint64		head;
} SpilledQueue;

/* More bytes than tierlimit.log_buffer can be. */
#define LARGEST_BUFFER (UINT64CONST(32) * 1024 * 1024 * 1024)

#define CRC_OFFSET (offsetof(SpillHeader, crc) + sizeof(pg_crc32c))

/* The file's content, from spill_buffer_size() to spill_load(); or NULL. */
static SpillHeader *found = NULL;

/* Return whether there is a file. */
static bool
file_exists(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0;
}

/*
 * Return whether the server starts as a standby, or to recover from a backup.
 */
static bool
is_recovering(void)
{
	return file_exists("standby.signal") || file_exists("recovery.signal");
}

/*
 * Return whether the header fits the file's size, so that the file may be read
 * as a whole.
 */
static bool
is_plausible(FILE *file, uint64 size)
{
	SpillHeader header;

	return size >= sizeof(SpillHeader) &&
		fread(&header, sizeof(SpillHeader), 1, file) == 1 &&
		header.format == SPILL_FORMAT &&
		header.buffer_size <= LARGEST_BUFFER &&
		size <= sizeof(SpillHeader) + NUM_QUEUES * sizeof(SpilledQueue) +
		header.buffer_size;
}

/*
 * Return the whole content of the file, and its size; NULL if it can't be
 * read.
 */
static char *
read_file(Size *size)
{
	FILE	   *file = AllocateFile(SPILL_FILE, PG_BINARY_R);
	struct stat st;
	char	   *content = NULL;

	if (file == NULL)
		return NULL;
	if (fstat(fileno(file), &st) == 0 && is_plausible(file, st.st_size))
	{
		rewind(file);
		*size = st.st_size;
		content = MemoryContextAllocHuge(TopMemoryContext, *size + 1);
		if (fread(content, 1, *size, file) != *size)
		{
			pfree(content);
			content = NULL;
		}
	}
	FreeFile(file);
	return content;
}

/*
 * Return the checkpoint that the server was stopped with; InvalidXLogRecPtr if
 * it was not stopped in order.
 */
static XLogRecPtr
last_checkpoint(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	return crc_ok && (control->state == DB_SHUTDOWNED ||
					  control->state == DB_SHUTDOWNED_IN_RECOVERY)
		? control->checkPoint : InvalidXLogRecPtr;
}

/*
 * Return whether a file's content is of this server, as it was written, and
 * nothing has happened since.
 */
static bool
is_whole(const char *content, Size size)
{
	const SpillHeader *header = (const SpillHeader *) content;
	pg_crc32c	crc;

	if (size < sizeof(SpillHeader) || header->format != SPILL_FORMAT)
		return false;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, content + CRC_OFFSET, size - CRC_OFFSET);
	FIN_CRC32C(crc);
	return EQ_CRC32C(crc, header->crc) &&
		header->system_identifier == GetSystemIdentifier() &&
		header->checkpoint == last_checkpoint();
}

/*
 * Read the file, and return how large the queues' buffer has to be, in bytes,
 * to take what is in it, neither smaller nor larger; 0 if there is no file
 * that can be used.  Raises an ERROR if pg_control can't be read.
 */
uint64
spill_buffer_size(void)
{
	Size		size;
	char	   *content;

	if (IsBinaryUpgrade || is_recovering() ||
		(content = read_file(&size)) == NULL)
		return 0;
	if (!is_whole(content, size))
	{
		pfree(content);
		return 0;
	}
	found = (SpillHeader *) content;
	return found->buffer_size;
}

/* Rename a file that is there and was not used. */
static void
set_aside(void)
{
	if (IsBinaryUpgrade || !file_exists(SPILL_FILE))
		return;
	(void) durable_rename(SPILL_FILE, UNUSED_FILE, LOG);
	ereport(WARNING,
			(errmsg("decisions that the server had stopped with are not used"),
			 is_recovering()
			 ? errdetail("The server starts from another one's data.")
			 : errdetail("Their file is damaged, of another server or version, or older than what the server did last."),
			 errhint("The file is kept as \"%s\".", UNUSED_FILE)));
}

/*
 * Fill the queues, which are empty, from the file that spill_buffer_size() has
 * read, and return what was taken from it.  The file stays.  A file that is
 * not used is set aside.
 */
SpillTotals
spill_load(void)
{
	SpillTotals totals = {0};
	const char *at;

	if (found == NULL)
	{
		set_aside();
		return totals;
	}

	at = (const char *) (found + 1);
	for (uint64 i = 0; i < found->nqueues; i++)
	{
		SpilledQueue spilled;

		memcpy(&spilled, at, sizeof(SpilledQueue));
		at += sizeof(SpilledQueue);
		queue_restore(spilled.number, spilled.database, spilled.tail,
					  spilled.head, at);
		at += spilled.head - spilled.tail;
		totals.decisions += queue_count(queue_at(spilled.number), &spilled.tail);
		totals.position = Max(totals.position, spilled.head);
	}
	pfree(found);
	found = NULL;
	ereport(LOG,
			(errmsg("%lld decisions that the server had stopped with are to be written to the request log",
					(long long) totals.decisions)));
	return totals;
}

/* Append to a buffer, and return where that ends. */
static char *
append(char *to, const void *from, Size size)
{
	memcpy(to, from, size);
	return to + size;
}

/*
 * Return what is in the queues, as the file has it; NULL if there is nothing.
 */
static char *
collect(XLogRecPtr checkpoint, Size *size)
{
	SpillHeader header = {
		.format = SPILL_FORMAT,
		.system_identifier = GetSystemIdentifier(),
		.checkpoint = checkpoint,
		.buffer_size = queue_buffer_size()
	};
	char	   *content = MemoryContextAllocHuge(TopMemoryContext,
												 sizeof(SpillHeader) +
												 NUM_QUEUES * sizeof(SpilledQueue) +
												 header.buffer_size);
	char	   *at = content + sizeof(SpillHeader);

	for (int i = 0; i < NUM_QUEUES; i++)
	{
		LogQueue   *queue = queue_at(i);
		SpilledQueue spilled = {.number = i, .database = queue->database};

		spilled.tail = spilled.head = ring_tail(&queue->ring);
		if (queue_count(queue, &spilled.head) == 0)
			continue;
		at = append(at, &spilled, sizeof(SpilledQueue));
		ring_save(&queue->ring, spilled.tail, spilled.head, at);
		at += spilled.head - spilled.tail;
		header.nqueues++;
	}
	*size = at - content;
	memcpy(content, &header, sizeof(SpillHeader));
	INIT_CRC32C(header.crc);
	COMP_CRC32C(header.crc, content + CRC_OFFSET, *size - CRC_OFFSET);
	FIN_CRC32C(header.crc);
	memcpy(content, &header, sizeof(SpillHeader));
	return header.nqueues == 0 ? NULL : content;
}

/*
 * Write the file, under another name first, so that it is there as a whole or
 * not at all.
 */
static void
write_file(const char *content, Size size)
{
	FILE	   *file = AllocateFile(SPILL_FILE ".tmp", PG_BINARY_W);
	bool		written = file != NULL &&
	fwrite(content, 1, size, file) == size;

	if (file != NULL && FreeFile(file) != 0)
		written = false;
	if (!written)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", SPILL_FILE ".tmp"),
				 errdetail("Decisions that wait to be written to the request log are lost.")));
		unlink(SPILL_FILE ".tmp");
		return;
	}
	(void) durable_rename(SPILL_FILE ".tmp", SPILL_FILE, LOG);
}

/*
 * Write the file when the postmaster exits, if there is anything to keep.  The
 * exit code doesn't matter: where a start has failed, nothing has happened
 * since the server was stopped in order.
 */
static void
write_if_needed(int code, Datum arg)
{
	XLogRecPtr	checkpoint = IsBinaryUpgrade ? InvalidXLogRecPtr : last_checkpoint();
	char	   *content;
	Size		size;

	(void) code;
	(void) arg;
	if (checkpoint == InvalidXLogRecPtr)
		return;
	content = collect(checkpoint, &size);
	if (content != NULL)
		write_file(content, size);
	else
		spill_forget();
}

/*
 * Remove the file, if there is one: the server is open, so what it stopped
 * with is not to be read again.
 */
void
spill_forget(void)
{
	if (file_exists(SPILL_FILE))
		(void) durable_unlink(SPILL_FILE, LOG);
}

/*
 * Have the file written when the postmaster exits, if there is anything to
 * keep.
 */
void
spill_at_exit(void)
{
	if (!IsUnderPostmaster)
		on_shmem_exit(write_if_needed, (Datum) 0);
}
