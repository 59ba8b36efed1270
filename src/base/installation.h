/*-------------------------------------------------------------------------
 *
 * installation.h
 *		The installation of the extension that a call belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_INSTALLATION_H
#define TIERLIMIT_INSTALLATION_H

/*
 * A database, and in it the extension as it was created: the OID of its table
 * tier, which another CREATE EXTENSION does not get again.  What is counted
 * belongs to an installation, so that no other one inherits the counts of a
 * database or of an extension that was dropped.
 */
typedef struct InstallationId
{
	Oid			database;
	Oid			extension_id;
} InstallationId;

static inline bool
installation_is(InstallationId a, InstallationId b)
{
	return a.database == b.database && a.extension_id == b.extension_id;
}

/* An installation, and what else is looked up with it. */
typedef struct Installation
{
	InstallationId id;
	Oid			owner;			/* owner of the tables, which are read as this
								 * role */
	Oid			decision;		/* the row type tierlimit.decision */
	Oid			api_key;		/* the table */
	uint32		api_key_version;	/* another number for each definition of
									 * that; 0: it does not tell of changed
									 * rows */
	bool		uncommitted;	/* created by this transaction */
} Installation;

extern const Installation *installation(void);
extern void installation_require_committed(void);
extern const Installation *installation_if_any(void);
extern void installation_forget(Oid relid);

#endif							/* TIERLIMIT_INSTALLATION_H */
