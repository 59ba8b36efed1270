/*-------------------------------------------------------------------------
 *
 * installation.c
 *		The installation of the extension that a call belongs to.
 *
 * Nothing is done when an extension or a database is dropped: no call reaches
 * any more what was counted in it, and that makes room like all subjects that
 * were not called for long (sweep.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/compat.h"
#include "base/installation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#define SCHEMA "tierlimit"

static Installation known;		/* id.extension_id invalid: it is not known */

/* Return whether this transaction has created a table. */
static bool
is_created_here(Oid table)
{
	Relation	relation = table_open(table, AccessShareLock);
	bool		here = relation->rd_createSubid != InvalidSubTransactionId;

	table_close(relation, AccessShareLock);
	return here;
}

/*
 * Return whether this is a trigger that tells apikey.c of changed rows,
 * whichever session changes them.
 */
static bool
tells_of_changes(Form_pg_trigger trigger)
{
	return trigger->tgenabled == TRIGGER_FIRES_ALWAYS &&
		(strcmp(NameStr(trigger->tgname), "changing") == 0 ||
		 strcmp(NameStr(trigger->tgname), "changed") == 0);
}

/*
 * Return the number that tells one definition of api_key from another: it
 * depends on where the rows are, which a TRUNCATE or a rewriting ALTER TABLE
 * changes, and on the triggers.  Returns 0 if the triggers do not tell of
 * changes, because one has been disabled.
 */
static uint32
api_key_version(Oid api_key, RelFileNumber file)
{
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	uint32		version = murmurhash32(file);
	int			telling = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(api_key));
	scan = systable_beginscan(triggers, TriggerRelidNameIndexId, true, NULL, 1,
							  &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		telling += tells_of_changes(trigger);
		version = hash_combine(version, murmurhash32(trigger->oid));
		version = hash_combine(version,
							   murmurhash32(HeapTupleHeaderGetRawXmin(tuple->t_data)));
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	return telling < 2 ? 0 : Max(version, 1);
}

/*
 * Return a table's row of pg_class, and its tuple, which the caller has to
 * release.
 */
static Form_pg_class
class_of(HeapTuple *tuple, Oid table)
{
	*tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	if (!HeapTupleIsValid(*tuple))
		elog(ERROR, "cache lookup failed for relation %u", table);
	return (Form_pg_class) GETSTRUCT(*tuple);
}

/*
 * Look the installation up in the catalogs.  Returns false if the extension is
 * not there.
 */
static bool
look_up_installation(void)
{
	Oid			schema = get_namespace_oid(SCHEMA, true);
	Oid			extension_id = InvalidOid;
	Oid			decision = InvalidOid;
	Oid			api_key = InvalidOid;
	RelFileNumber file;
	HeapTuple	tuple;

	if (OidIsValid(schema))
	{
		extension_id = get_relname_relid("tier", schema);
		api_key = get_relname_relid("api_key", schema);
		decision = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
								   CStringGetDatum("decision"),
								   ObjectIdGetDatum(schema));
	}
	if (!OidIsValid(extension_id) || !OidIsValid(api_key) || !OidIsValid(decision))
		return false;

	known.owner = class_of(&tuple, extension_id)->relowner;
	ReleaseSysCache(tuple);
	file = class_of(&tuple, api_key)->relfilenode;
	ReleaseSysCache(tuple);
	known.api_key = api_key;
	known.api_key_version = api_key_version(api_key, file);
	known.decision = decision;
	known.uncommitted = is_created_here(extension_id);
	known.id.database = MyDatabaseId;
	known.id.extension_id = extension_id;
	return true;
}

/*
 * Return the installation of this session's database; NULL if the extension is
 * not there.  May look into the catalogs, so no lock may be held.  What it
 * points to is valid until invalidations are accepted again.
 */
const Installation *
installation_if_any(void)
{
	if (unlikely(!OidIsValid(known.id.extension_id)) && !look_up_installation())
		return NULL;
	return &known;
}

/*
 * Return the installation of this session's database.  Raises an ERROR if the
 * extension is not there; may look into the catalogs, so no lock may be held.
 * What it points to is valid until invalidations are accepted again.
 */
const Installation *
installation(void)
{
	const Installation *found = installation_if_any();

	if (unlikely(found == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"tierlimit\" is not installed in this database"),
				 errhint("Use CREATE EXTENSION tierlimit.")));
	return found;
}

/*
 * Raise an ERROR if the installation was created by this transaction: no other
 * session knows it yet, so no call could be logged.  No lock may be held.
 */
void
installation_require_committed(void)
{
	if (likely(!installation()->uncommitted))
		return;
	known.uncommitted = is_created_here(known.id.extension_id);
	if (known.uncommitted)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot count calls in the transaction that creates the extension \"tierlimit\""),
				 errhint("Commit it before.")));
}

/*
 * Forget what installation() remembers, if relid is a table that it was looked
 * up by, or InvalidOid.  For relcache callbacks: it looks nothing up.
 */
void
installation_forget(Oid relid)
{
	if (relid == InvalidOid || relid == known.id.extension_id ||
		relid == known.api_key)
		known.id.extension_id = InvalidOid;
}
