/*-------------------------------------------------------------------------
 *
 * installation.h
 *		Which installation of the extension a call belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_INSTALLATION_H
#define TIERLIMIT_INSTALLATION_H

/*
 * A database, and in it the extension as it was created: the OID of its table
 * tier, which another CREATE EXTENSION does not get again.  What is counted
 * belongs to an installation, so that nobody inherits the counts of a database or of
 * an extension that was dropped.
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
	Oid			owner;			/* of the tables; they are read as this role */
	Oid			decision;		/* the row type tierlimit.decision */
	Oid			api_key;		/* the table */
	uint32		api_key_version;	/* another one for each definition of
									 * that; 0: it does not tell of changed
									 * rows */
	bool		uncommitted;	/* created by this transaction */
} Installation;

/*
 * The installation of this session's database.  May look into the catalogs,
 * so call it with no lock; raises an ERROR if the extension is not there.
 * What it points to is valid until invalidations are accepted again.
 */
extern const Installation *installation(void);

/*
 * Raise an ERROR if the installation was created by this transaction: nobody
 * else knows it yet, so nobody could log a call.
 */
extern void installation_require_committed(void);

/* The same; NULL if the extension is not there. */
extern const Installation *installation_if_any(void);

/* Forget what installation() remembers, if relid concerns it. */
extern void installation_forget(Oid relid);

#endif							/* TIERLIMIT_INSTALLATION_H */
