/*-------------------------------------------------------------------------
 *
 * path.c
 *		One spelling for each path.
 *
 * Callers choose how a path is spelt, and servers understand many spellings of
 * one: /public/../admin is /admin, and so is /%61dmin.  If lists and prices were
 * asked for what the caller wrote, the caller would choose what is included and
 * what it costs.  So a path has a normal form, after RFC 3986:
 *
 *	- it ends before the query or the fragment;
 *	- a character that may stand in a segment stands as itself, any other byte
 *	  of UTF-8 as %XX, in upper case.  (Section 6.2.2; that one would also decode
 *	  no more than the unreserved characters, since reserved ones may have a
 *	  meaning that encoded ones have not.  Servers that decode each segment see
 *	  no difference between /items:all and /items%3Aall, so there is none here.)
 *	  A percent sign that encodes nothing is encoded itself;
 *	- empty segments are left out, but a slash at the end stays;
 *	- then "." and ".." are resolved (section 5.2.4); above the root is the root.
 *
 * An encoded slash or backslash stays encoded, within its segment, and a backslash
 * is encoded.  Some servers take these for slashes, so that /public/..%2Fadmin is
 * /admin to them: path_with_slashes() says what they see, and lists and prices
 * are asked for both.
 *
 * A method in front, as in "GET /items", stays.  What else does not begin with a
 * slash is a name of the service's own, and left alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "config/path.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/* What may stand in a segment as it is: pchar (RFC 3986, section 3.3). */
static inline bool
is_segment_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') ||
		(c != '\0' && strchr("-._~!$&'()*+,;=:@", c) != NULL);
}

/* The length of a method and the space behind it, in front of a path; or 0. */
static int
method_length(const char *bytes, int length)
{
	int			i = 0;

	while (i < length && bytes[i] >= 'A' && bytes[i] <= 'Z')
		i++;
	return i > 0 && i + 1 < length && bytes[i] == ' ' && bytes[i + 1] == '/'
		? i + 1 : 0;
}

/* Mostly a path is in its normal form already; it does not take long to see. */
static bool
is_normal(const char *bytes, int length)
{
	for (int i = 0; i < length; i++)
	{
		if (bytes[i] == '/' ? i > 0 && bytes[i - 1] == '/'
			: !is_segment_char(bytes[i]))
			return false;
		if (bytes[i] == '.' && bytes[i - 1] == '/')
			return false;
	}
	return true;
}

static int
hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0'
		: c >= 'a' && c <= 'f' ? c - 'a' + 10
		: c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that %XX at this place stands for; -1 if that is none. */
static int
decode(const char *at, const char *end)
{
	if (*at != '%' || end - at < 3 || hex_digit(at[1]) < 0 ||
		hex_digit(at[2]) < 0)
		return -1;
	return hex_digit(at[1]) << 4 | hex_digit(at[2]);
}

/*
 * Append bytes, each spelt as it is in a path; those of literal stay.  They are
 * UTF-8.
 */
static void
append_spelt(StringInfo path, const char *bytes, int length,
			 const char *literal)
{
	const char *end = bytes + length;

	for (const char *at = bytes; at < end; at++)
	{
		int			decoded = decode(at, end);
		unsigned char c = decoded >= 0 ? decoded : (unsigned char) *at;

		if (is_segment_char(c) ||
			(decoded < 0 && c != '\0' && strchr(literal, c) != NULL))
			appendStringInfoChar(path, (char) c);
		else
			appendStringInfo(path, "%%%02X", c);
		if (decoded >= 0)
			at += 2;
	}
}

/*
 * Append a path, from its first slash to its end, without empty and dot
 * segments.  What was in front of it stays.
 */
static void
append_resolved(StringInfo out, const char *path)
{
	int			root = out->len;

	while (*path == '/')
	{
		const char *segment = path + strspn(path, "/");
		int			length = strcspn(segment, "/");
		bool		up = length == 2 && strncmp(segment, "..", 2) == 0;

		path = segment + length;
		if (up)
			while (out->len > root && out->data[--out->len] != '/')
				 /* take the last segment away */ ;
		out->data[out->len] = '\0';
		if (!up && !(length == 1 && *segment == '.') && length > 0)
		{
			appendStringInfoChar(out, '/');
			appendBinaryStringInfo(out, segment, length);
		}
		else if (*path == '\0')
			appendStringInfoChar(out, '/');
	}
}

/* In UTF-8, whatever the database's encoding is. */
static char *
to_utf8(const char *bytes, int *length)
{
	char	   *utf8 = pnstrdup(bytes, *length);

	/* Of SQL_ASCII nobody knows what it is in, and it would be checked. */
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		utf8 = pg_server_to_any(utf8, *length, PG_UTF8);
	*length = strlen(utf8);
	return utf8;
}

const text *
path_normal(const text *endpoint)
{
	const char *bytes;
	int			length;
	int			method;
	StringInfoData spelt;
	StringInfoData normal;

	if (endpoint == NULL)
		return NULL;
	bytes = VARDATA_ANY(endpoint);
	length = VARSIZE_ANY_EXHDR(endpoint);
	method = method_length(bytes, length);
	if (length == method || bytes[method] != '/' ||
		is_normal(bytes + method, length - method))
		return endpoint;

	initStringInfo(&spelt);
	initStringInfo(&normal);
	appendBinaryStringInfo(&normal, bytes, method);
	length -= method;
	bytes = to_utf8(bytes + method, &length);
	append_spelt(&spelt, bytes, strcspn(bytes, "?#"), "/");
	append_resolved(&normal, spelt.data);
	return cstring_to_text_with_len(normal.data, normal.len);
}

const text *
path_with_slashes(const text *path)
{
	const char *bytes = VARDATA_ANY(path);
	int			length = VARSIZE_ANY_EXHDR(path);
	int			method = method_length(bytes, length);
	StringInfoData read;
	StringInfoData normal;

	if (length == method || bytes[method] != '/' ||
		memchr(bytes, '%', length) == NULL)
		return NULL;

	initStringInfo(&read);
	initStringInfo(&normal);
	appendBinaryStringInfo(&normal, bytes, method);
	for (int i = method; i < length; i++)
	{
		int			decoded = decode(bytes + i, bytes + length);
		bool		slash = decoded == '/' || decoded == '\\';

		appendStringInfoChar(&read, slash ? '/' : bytes[i]);
		i += slash ? 2 : 0;
	}
	if (read.len == length - method)
		return NULL;
	append_resolved(&normal, read.data);
	return cstring_to_text_with_len(normal.data, normal.len);
}

/*
 * Of a pattern only the characters: its segments may be half ones, and what can
 * be no path matches none.
 */
char *
path_pattern(const char *pattern)
{
	int			length = strlen(pattern);
	int			method = method_length(pattern, length);
	StringInfoData spelt;

	if (pattern[method] != '/')
		return pstrdup(pattern);
	initStringInfo(&spelt);
	appendBinaryStringInfo(&spelt, pattern, method);
	length -= method;
	pattern = to_utf8(pattern + method, &length);
	append_spelt(&spelt, pattern, length, "/?#");
	return spelt.data;
}

/*
 * Whether any endpoint can match a pattern: one of a path has to be in normal
 * form, with some rest in place of a trailing *.
 */
bool
path_pattern_is_normal(const char *pattern)
{
	char	   *spelt = path_pattern(pattern);
	int			length = strlen(spelt);
	const text *example;
	const text *normal;

	if (length > 0 && spelt[length - 1] == '*')
		spelt[length - 1] = 'x';
	example = cstring_to_text(spelt);
	normal = path_normal(example);
	return VARSIZE_ANY_EXHDR(normal) == VARSIZE_ANY_EXHDR(example) &&
		memcmp(VARDATA_ANY(normal), VARDATA_ANY(example),
			   VARSIZE_ANY_EXHDR(example)) == 0;
}
