/*-------------------------------------------------------------------------
 *
 * path.c
 *		The normal form of paths, which is one spelling for each.
 *
 * Callers choose how a path is spelt, and servers understand many spellings of
 * one: /public/../admin is /admin, and so is /%61dmin.  If lists and prices
 * were asked for the text that the caller wrote, the caller would choose what
 * is included and what it costs.  So a path has a normal form, after RFC 3986:
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
 * An encoded slash or backslash stays encoded, within its segment, and a
 * backslash is encoded.  Some servers take these for slashes, so that
 * /public/..%2Fadmin is /admin to them: path_with_slashes() says what they
 * see, and lists and prices are asked for both.
 *
 * A method in front, as in "GET /items", stays.  Any other endpoint that does
 * not begin with a slash is a name of the service's own, and left alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "config/path.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/*
 * Return whether a character may stand in a segment as it is: pchar (RFC 3986,
 * section 3.3).
 */
static inline bool
is_segment_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') ||
		(c != '\0' && strchr("-._~!$&'()*+,;=:@", c) != NULL);
}

/*
 * Return the length of a method in front of a path, with the space after it;
 * or 0.
 */
static int
method_length(const char *bytes, int length)
{
	int			i = 0;

	while (i < length && bytes[i] >= 'A' && bytes[i] <= 'Z')
		i++;
	return i > 0 && i + 1 < length && bytes[i] == ' ' && bytes[i + 1] == '/'
		? i + 1 : 0;
}

/*
 * Return whether a path is in normal form, as it mostly is: that does not take
 * long to see.  False may be wrong.
 */
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

/* Return the value of a hexadecimal digit; -1 if it is none. */
static int
hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0'
		: c >= 'a' && c <= 'f' ? c - 'a' + 10
		: c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/*
 * Return the byte that %XX at this place stands for; -1 if there is no such
 * thing.
 */
static int
decode(const char *at, const char *end)
{
	if (*at != '%' || end - at < 3 || hex_digit(at[1]) < 0 ||
		hex_digit(at[2]) < 0)
		return -1;
	return hex_digit(at[1]) << 4 | hex_digit(at[2]);
}

/*
 * Append bytes, which are UTF-8, each spelt as it is in a path.  Those of
 * literal stay as they are.
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
 * segments.  What is in the buffer before it stays.
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

/* Return bytes in UTF-8, whatever the database's encoding is. */
static char *
to_utf8(const char *bytes, int *length)
{
	char	   *utf8 = pnstrdup(bytes, *length);

	/*
	 * It is not known in which encoding a text of SQL_ASCII is, and a
	 * conversion would check it.
	 */
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		utf8 = pg_server_to_any(utf8, *length, PG_UTF8);
	*length = strlen(utf8);
	return utf8;
}

/*
 * Return an endpoint as prices, lists and the log know it: a path in normal
 * form, or anything else as it is.  The result may be the same text; NULL for
 * NULL.
 */
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

/*
 * Return what a server sees in a path in normal form that takes encoded
 * slashes, and backslashes, for slashes; NULL if there are none.
 */
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
 * Return a pattern of paths with its characters spelt as those of a path are.
 * The characters only: a pattern may end within a segment, and one that can be
 * no path matches none.
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
 * Return whether any endpoint can match a pattern: the pattern of a path has
 * to be in normal form, with some rest in place of a trailing *.
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
