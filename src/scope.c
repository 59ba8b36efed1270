/*-------------------------------------------------------------------------
 *
 * scope.c
 *		Which installation of the extension a call belongs to.
 *
 * When the extension or a database is dropped, what was counted in it is
 * removed from memory at commit.  An object access hook notes what is being
 * dropped; whether the extension really has gone is asked just before the
 * commit, since a subtransaction that dropped it may have been rolled back.
 * (Where the drop was prepared by PREPARE TRANSACTION, the counts stay until a
 * sweep finds them empty; no call can reach them.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "queue.h"
#include "registry.h"
#include "scope.h"
#include "store.h"
#include "sweep.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#define SCHEMA "tierlimit"

static Installation known;		/* scope.catalog invalid: not known */
static object_access_hook_type prev_object_access_hook = NULL;

/* Scopes dropped by this transaction; in TopTransactionContext. */
static List *dropped = NIL;

static bool
is_created_here(Oid table)
{
	Relation	relation = table_open(table, AccessShareLock);
	bool		here = relation->rd_createSubid != InvalidSubTransactionId;

	table_close(relation, AccessShareLock);
	return here;
}

/* False if the extension is not there. */
static bool
look_up_installation(void)
{
	Oid			schema = get_namespace_oid(SCHEMA, true);
	Oid			catalog = InvalidOid;
	Oid			decision = InvalidOid;
	HeapTuple	tuple;

	if (OidIsValid(schema))
	{
		catalog = get_relname_relid("tier", schema);
		decision = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
								   CStringGetDatum("decision"),
								   ObjectIdGetDatum(schema));
	}
	if (!OidIsValid(catalog) || !OidIsValid(decision))
		return false;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(catalog));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", catalog);
	known.owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	known.decision = decision;
	known.uncommitted = is_created_here(catalog);
	known.scope.database = MyDatabaseId;
	known.scope.catalog = catalog;
	return true;
}

const Installation *
installation_if_any(void)
{
	if (unlikely(!OidIsValid(known.scope.catalog)) && !look_up_installation())
		return NULL;
	return &known;
}

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

void
installation_require_committed(void)
{
	if (likely(!installation()->uncommitted))
		return;
	known.uncommitted = is_created_here(known.scope.catalog);
	if (known.uncommitted)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot count calls in the transaction that creates the extension \"tierlimit\""),
				 errhint("Commit it before.")));
}

void
installation_forget(Oid relid)
{
	if (relid == InvalidOid || relid == known.scope.catalog)
		known.scope.catalog = InvalidOid;
}

static bool
is_our_table(Oid relid, const char *name)
{
	char	   *relname = get_rel_name(relid);

	if (relname == NULL || strcmp(relname, name) != 0)
		return false;
	return get_rel_namespace(relid) == get_namespace_oid(SCHEMA, true);
}

static Oid
table_of_trigger(Oid trigger)
{
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	Oid			table = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	scan = systable_beginscan(triggers, TriggerOidIndexId, true, NULL, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		table = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	return table;
}

static void
note_drop(Oid database, Oid catalog)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Scope	   *scope = palloc(sizeof(Scope));

	scope->database = database;
	scope->catalog = catalog;
	dropped = lappend(dropped, scope);
	MemoryContextSwitchTo(old);
}

/*
 * Besides drops, note definitions of api_key that change: a rewrite or a
 * disabled trigger can change rows without telling the registry.
 */
static void
watch_objects(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			  void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access == OAT_DROP && subId == 0)
	{
		if (classId == DatabaseRelationId)
			note_drop(objectId, InvalidOid);
		else if (classId == RelationRelationId &&
				 is_our_table(objectId, "tier"))
			note_drop(MyDatabaseId, objectId);
	}
	else if (access == OAT_POST_ALTER &&
			 ((classId == RelationRelationId &&
			   is_our_table(objectId, "api_key")) ||
			  (classId == TriggerRelationId &&
			   is_our_table(table_of_trigger(objectId), "api_key"))))
		registry_change_all();
}

static void
forget_unless_gone(void)
{
	ListCell   *cell;

	foreach(cell, dropped)
	{
		Scope	   *scope = lfirst(cell);

		if (OidIsValid(scope->catalog) &&
			SearchSysCacheExists1(RELOID, ObjectIdGetDatum(scope->catalog)))
			dropped = foreach_delete_current(dropped, cell);
	}
}

static void
forget_scope(Scope scope)
{
	sweep_scope(scope);
	if (!OidIsValid(scope.catalog))
		queue_forget(scope.database);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	ListCell   *cell;

	(void) arg;
	if (dropped == NIL)
		return;

	if (event == XACT_EVENT_PRE_COMMIT)
	{
		forget_unless_gone();
		return;
	}
	if (event == XACT_EVENT_COMMIT)
		foreach(cell, dropped)
			forget_scope(*(Scope *) lfirst(cell));
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		dropped = NIL;
}

void
scope_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = watch_objects;
	RegisterXactCallback(at_transaction_end, NULL);
}
