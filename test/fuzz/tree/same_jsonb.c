/*-------------------------------------------------------------------------
 *
 * same_jsonb.c
 *		JSON of any shape, read by tree.c and by PostgreSQL.
 *
 * tree.c needs a server, so that it cannot be a fuzz target as the others.
 * This is loaded into one by test/t/013_any_jsonb.pl.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "response/answer.h"
#include "response/sanitize.h"
#include "response/tree.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(same_jsonb);

/* What became of a text: a value, an error, or neither. */
typedef struct Reading
{
	bool		made;
	Datum		jsonb;
	ErrorData  *error;
} Reading;

static pg_prng_state prng;

static uint32
below(uint32 n)
{
	return (uint32) pg_prng_uint64_range(&prng, 0, n - 1);
}

static const char *
one_of(const char *const words[], size_t nwords)
{
	return words[below(nwords)];
}

/* Mostly none. */
static void
add_space(StringInfo text)
{
	static const char *const spaces[] = {" ", "\n", "\t", "\r\n", "   "};

	while (below(8) == 0)
		appendStringInfoString(text, one_of(spaces, lengthof(spaces)));
}

/* Names come again within an object, often. */
static void
add_string(StringInfo text)
{
	static const char *const pieces[] = {
		"a", "b", "aa", "Status", "{", "}", "[", "]", ",", ":", " ", "true", "1",
		"\\\"", "\\\\", "\\/", "\\b\\f\\n\\r\\t", "\\u0041", "\\u00e9",
		"\\ud83d\\ude00", "\\u0000", "\\ud83d", "\\u12", "\\x", "\t",
		"\xc3\xa9", "\xe4\xbd\xa0", "\xf0\x9f\x98\x80", "\xff", "\xc3", "\x7f"
	};

	appendStringInfoChar(text, '"');
	while (below(3) != 0)
	{
		/* the first fourteen alone, most of the time */
		const char *piece =
			pieces[below(below(8) == 0 ? lengthof(pieces) : 14)];
		int			times = below(1000) == 0 ? (int) below(5000) : 1;

		while (times-- > 0)
			appendStringInfoString(text, piece);
	}
	appendStringInfoChar(text, '"');
}

static void
add_number(StringInfo text)
{
	static const char *const numbers[] = {
		"0", "-0", "-0.0", "1E+2", "1e-2", "0.10", "47", "1e131071", "1e131073",
		"9223372036854775808", "01", "-", "1.", ".5", "1e", "+1"
	};

	if (below(4) != 0)
		appendStringInfo(text, "%s%u", below(4) == 0 ? "-" : "",
						 below(1U << below(31)));
	else
		appendStringInfoString(text,
							   numbers[below(below(20) == 0 ?
												 lengthof(numbers) :
												 7)]);
}

static void
add_value(StringInfo text, int depth)
{
	static const char *const words[] = {"true", "false", "null"};
	bool		object = below(2) == 0;
	bool		more = false;

	add_space(text);
	if (depth > 0 && (below(4) != 0 || depth == 100))
		switch (below(3))
		{
			case 0:
				add_string(text);
				break;
			case 1:
				add_number(text);
				break;
			default:
				appendStringInfoString(text, one_of(words, lengthof(words)));
				break;
		}
	else
	{
		object |= depth == 0;
		appendStringInfoChar(text, object ? '{' : '[');
		while (below(4) != 0)
		{
			if (more)
				appendStringInfoChar(text, ',');
			more = true;
			if (object)
			{
				add_space(text);
				add_string(text);
				add_space(text);
				appendStringInfoChar(text, ':');
			}
			add_value(text, depth + 1);
		}
		add_space(text);
		appendStringInfoChar(text, object ? '}' : ']');
	}
	add_space(text);
}

/* Take some bytes away, and put others in their place. */
static void
change(StringInfo text)
{
	StringInfoData changed;
	int			from = below(text->len + 1);
	int			to = from + (int) below(12);

	to = Min(to, text->len);
	initStringInfo(&changed);
	appendBinaryStringInfo(&changed, text->data, from);
	switch (below(4))
	{
		case 0:
			appendStringInfoChar(&changed, 1 + below(255));
			break;
		case 1:
			add_value(&changed, 1);
			break;
		case 2:
			add_string(&changed);
			break;
		default:
			break;
	}
	appendBinaryStringInfo(&changed, text->data + to, text->len - to);
	*text = changed;
}

static void
read_text(Reading *reading, bool by_tree, char *text, size_t len)
{
	MemoryContext context = CurrentMemoryContext;

	memset(reading, 0, sizeof(Reading));
	PG_TRY();
	{
		if (by_tree)
			reading->made = tree_make(text, len, &reading->jsonb);
		else
		{
			reading->jsonb = DirectFunctionCall1(jsonb_in,
												 CStringGetDatum(text));
			reading->made = true;
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		reading->error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
}

static bool
same_values(Datum a, Datum b)
{
	Jsonb	   *x = DatumGetJsonbP(a);
	Jsonb	   *y = DatumGetJsonbP(b);

	return VARSIZE(x) == VARSIZE(y) && memcmp(x, y, VARSIZE(x)) == 0;
}

/* May this become of a text, where PostgreSQL makes "theirs" of it? */
static bool
same_readings(const Reading *ours, const Reading *theirs)
{
	if (ours->error != NULL)
		return theirs->error != NULL &&
			ours->error->sqlerrcode == theirs->error->sqlerrcode &&
			strcmp(ours->error->message, theirs->error->message) == 0;
	return !ours->made ||
		(theirs->made && same_values(ours->jsonb, theirs->jsonb));
}

/* Is a text read in the same way?  Sets *made if tree.c makes jsonb of it. */
static bool
is_same(const char *text, size_t len, bool *made)
{
	bool		too_deep;
	size_t		sane_len;
	const char *sane = sanitize_text(text, len, ANSWER_MAX_DEPTH, &sane_len,
									 &too_deep);
	Reading		ours;
	Reading		theirs;
	char	   *copy;

	*made = false;
	if (sane == NULL)
		return true;
	copy = pnstrdup(sane, sane_len);
	read_text(&ours, true, copy, sane_len);
	read_text(&theirs, false, copy, sane_len);
	*made = ours.made;
	return same_readings(&ours, &theirs);
}

/*
 * same_jsonb(bodies bytea[], seed bigint, rounds integer) returns integer
 *
 * How many of so many texts, new ones and changed bodies, tree.c has made
 * jsonb of.  Raises an error about the first that is not the same.
 */
Datum
same_jsonb(PG_FUNCTION_ARGS)
{
	Datum	   *bodies;
	int			nbodies;
	int			rounds = PG_GETARG_INT32(2);
	int			made = 0;
	MemoryContext round_context = AllocSetContextCreate(CurrentMemoryContext,
														"same_jsonb",
														ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), BYTEAOID, -1, false,
					  TYPALIGN_INT, &bodies, NULL, &nbodies);
	pg_prng_seed(&prng, PG_GETARG_INT64(1));
	old = MemoryContextSwitchTo(round_context);
	for (int i = 0; i < rounds; i++)
	{
		StringInfoData text;
		bool		by_tree;

		CHECK_FOR_INTERRUPTS();
		initStringInfo(&text);
		if (below(2) == 0)
			add_value(&text, 0);
		else
		{
			bytea	   *body = DatumGetByteaPP(bodies[below(nbodies)]);

			appendBinaryStringInfo(&text, VARDATA_ANY(body),
								   VARSIZE_ANY_EXHDR(body));
		}
		for (int changes = (int) below(6) - 2; changes > 0; changes--)
			change(&text);
		if (!is_same(text.data, text.len, &by_tree))
			ereport(ERROR,
					(errmsg("text %d is not the same in jsonb", i),
					 errdetail("%s", text.data)));
		made += by_tree;
		MemoryContextReset(round_context);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_INT32(made);
}
