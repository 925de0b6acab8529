/*-------------------------------------------------------------------------
 *
 * tree.c
 *		A JSON text as jsonb.
 *
 * jsonb_in() has the parser put every string together byte by byte, which is
 * most of what it takes for an answer, whose strings are long.  Here the
 * parser is given an outline (outline.c), and strings go into jsonb from where
 * they stand in the text.  What comes out is the same.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "compat.h"
#include "response/answer.h"
#include "response/outline.h"
#include "response/tree.h"

typedef struct Tree
{
	const Outline *outline;
	const JsonLexContext *lex;
	CompatJsonbState jsonb;
	bool		named;			/* a name has no value yet */
} Tree;

/* What comes next is the value of a name, or an element of an array. */
static JsonbIteratorToken
tree_next(Tree *tree)
{
	bool		named = tree->named;

	tree->named = false;
	return named ? WJB_VALUE : WJB_ELEM;
}

/*
 * A string.  One that is empty in the outline, and so when it is decoded, has
 * its first quote there.
 */
static void
tree_set_string(const Tree *tree, JsonbValue *value, char *decoded,
				const char *quote)
{
	size_t		len;

	value->type = jbvString;
	if (decoded != NULL && decoded[0] != '\0')
	{
		value->val.string.val = decoded;
		value->val.string.len = (int) strlen(decoded);
		return;
	}
	value->val.string.val =
		unconstify(char *, outline_string(tree->outline, quote, &len));
	value->val.string.len = (int) len;
}

static CompatJsonResult
tree_object_start(void *state)
{
	Tree	   *tree = state;

	tree->named = false;
	compat_jsonb_push(&tree->jsonb, WJB_BEGIN_OBJECT, NULL);
	COMPAT_JSON_DONE;
}

static CompatJsonResult
tree_object_end(void *state)
{
	compat_jsonb_push(&((Tree *) state)->jsonb, WJB_END_OBJECT, NULL);
	COMPAT_JSON_DONE;
}

static CompatJsonResult
tree_array_start(void *state)
{
	Tree	   *tree = state;

	tree->named = false;
	compat_jsonb_push(&tree->jsonb, WJB_BEGIN_ARRAY, NULL);
	COMPAT_JSON_DONE;
}

static CompatJsonResult
tree_array_end(void *state)
{
	compat_jsonb_push(&((Tree *) state)->jsonb, WJB_END_ARRAY, NULL);
	COMPAT_JSON_DONE;
}

/* The parser is at the value; the token before it is the colon. */
static CompatJsonResult
tree_field_start(void *state, char *name, bool isnull)
{
	Tree	   *tree = state;
	JsonbValue	key;

	tree_set_string(tree, &key, name, tree->lex->prev_token_terminator - 3);
	compat_jsonb_push(&tree->jsonb, WJB_KEY, &key);
	tree->named = true;
	COMPAT_JSON_DONE;
}

static Numeric
tree_number(char *token)
{
	return DatumGetNumeric(DirectFunctionCall3(numeric_in,
											   CStringGetDatum(token),
											   ObjectIdGetDatum(InvalidOid),
											   Int32GetDatum(-1)));
}

/* The parser is behind the value. */
static CompatJsonResult
tree_scalar(void *state, char *token, JsonTokenType type)
{
	Tree	   *tree = state;
	JsonbValue	value;

	switch (type)
	{
		case JSON_TOKEN_STRING:
			tree_set_string(tree, &value, token,
							tree->lex->prev_token_terminator - 2);
			break;
		case JSON_TOKEN_NUMBER:
			value.type = jbvNumeric;
			value.val.numeric = tree_number(token);
			break;
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			value.type = jbvBool;
			value.val.boolean = type == JSON_TOKEN_TRUE;
			break;
		default:
			value.type = jbvNull;
			break;
	}
	compat_jsonb_push(&tree->jsonb, tree_next(tree), &value);
	COMPAT_JSON_DONE;
}

/*
 * tree_make
 *		Make jsonb of a text of len bytes in the database's encoding.
 *
 * The text is one that an answer was read from, in UTF-8, or in none.  False
 * if it has no outline or is no object: then jsonb_in() has to read it.
 * Raises what jsonb_in() does for what jsonb cannot hold.
 */
bool
tree_make(const char *text, size_t len, Datum *jsonb)
{
	Outline		outline;
	Tree		tree = {.outline = &outline};
	JsonSemAction actions = {
		.semstate = &tree,
		.object_start = tree_object_start,
		.object_end = tree_object_end,
		.array_start = tree_array_start,
		.array_end = tree_array_end,
		.object_field_start = tree_field_start,
		.scalar = tree_scalar,
	};
	JsonLexContext *lex;
	bool		ok;

	if (len > JENTRY_OFFLENMASK ||
		!outline_make(&outline, text, len, ANSWER_MAX_DEPTH, true) ||
		outline.text[0] != '{')
		return false;
	lex = compat_json_lex(outline.text, outline.len, GetDatabaseEncoding(),
						  outline.escapes);
	tree.lex = lex;
	ok = pg_parse_json(lex, &actions) == JSON_SUCCESS;
	compat_json_lex_free(lex);
	if (ok)
		*jsonb = JsonbPGetDatum(JsonbValueToJsonb(tree.jsonb.result));
	return ok;
}
