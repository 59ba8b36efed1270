/*-------------------------------------------------------------------------
 *
 * json.h
 *		RebuiltWindows a jsonb, member by member.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TIERLIMIT_JSON_H
#define TIERLIMIT_JSON_H

#include "base/compat.h"

/*
 * A jsonb in the making; begins as {0}.  It points to the strings that are
 * added to it, which have to stay until the end.
 */
typedef JsonbInState Json;

/*
 * name is that of the member to add; NULL for what has none: elements of an
 * array, and the outermost object.
 */
extern void json_begin_object(Json *json, const char *name);
extern void json_end_object(Json *json);
extern void json_begin_array(Json *json, const char *name);
extern void json_end_array(Json *json);

extern void json_add_string(Json *json, const char *name, const char *value);
extern void json_add_text(Json *json, const char *name, Datum value);
extern void json_add_integer(Json *json, const char *name, int64 value);
extern void json_add_null(Json *json, const char *name);

/* The jsonb, once the outermost object has been ended. */
extern Datum json_result(const Json *json);

#endif							/* TIERLIMIT_JSON_H */
