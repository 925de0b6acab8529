/*-------------------------------------------------------------------------
 *
 * expected.c
 *		Recorded bodies and what is expected of reading them (see expected.h).
 *
 * Memory is never given back: it is needed until the program ends.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "mb/pg_wchar.h"

#include "compat.h"
#include "expected.h"

typedef struct Loader
{
	Expected   *first;
	Expected   *last;
	char	   *key;			/* whose value comes */
	int			depth;
} Loader;

static CompatJsonResult
load_object_start(void *state)
{
	Loader	   *loader = state;

	/* the array is not counted: 1 is an entry, 2 the headers in it */
	if (++loader->depth == 1)
	{
		Expected   *entry = calloc(1, sizeof(Expected));

		if (loader->last != NULL)
			loader->last->next = entry;
		else
			loader->first = entry;
		loader->last = entry;
	}
	COMPAT_JSON_DONE;
}

static CompatJsonResult
load_object_end(void *state)
{
	((Loader *) state)->depth--;
	COMPAT_JSON_DONE;
}

static CompatJsonResult
load_field_start(void *state, char *name, bool isnull)
{
	((Loader *) state)->key = strdup(name);
	COMPAT_JSON_DONE;
}

static CompatJsonResult
load_scalar(void *state, char *token, JsonTokenType type)
{
	Loader	   *loader = state;
	Expected   *entry = loader->last;

	if (entry != NULL && entry->nfields < EXPECTED_FIELDS)
	{
		entry->keys[entry->nfields] = loader->key;
		if (type != JSON_TOKEN_NULL)
			entry->values[entry->nfields] = strdup(token);
		entry->nfields++;
	}
	COMPAT_JSON_DONE;
}

char *
expected_slurp(const char *path, size_t *len)
{
	FILE	   *file = fopen(path, "rb");
	char	   *content;
	long		size;

	if (file == NULL)
		return NULL;
	fseek(file, 0, SEEK_END);
	size = ftell(file);
	rewind(file);
	content = malloc(size > 0 ? size : 1);
	*len = fread(content, 1, size, file);
	fclose(file);
	return content;
}

const char *
expected_get(const Expected *expected, const char *key, bool *found)
{
	for (int i = 0; i < expected->nfields; i++)
	{
		if (strcmp(expected->keys[i], key) == 0)
		{
			if (found != NULL)
				*found = true;
			return expected->values[i];
		}
	}
	if (found != NULL)
		*found = false;
	return NULL;
}

Expected *
expected_load(const char *folder)
{
	char		path[MAXPGPATH];
	Loader		loader = {NULL, NULL, NULL, 0};
	JsonSemAction actions = {0};
	JsonLexContext *lex;
	char	   *text;
	size_t		len;

	snprintf(path, sizeof(path), "%s/expected.json", folder);
	text = expected_slurp(path, &len);
	if (text == NULL)
		return NULL;

	actions.semstate = &loader;
	actions.object_start = load_object_start;
	actions.object_end = load_object_end;
	actions.object_field_start = load_field_start;
	actions.scalar = load_scalar;
	lex = compat_json_lex(text, len, true);
	if (pg_parse_json(lex, &actions) != JSON_SUCCESS)
	{
		fprintf(stderr, "%s is not JSON\n", path);
		exit(1);
	}

	for (Expected *entry = loader.first; entry != NULL; entry = entry->next)
	{
		const char *file = expected_get(entry, "file", NULL);

		snprintf(path, sizeof(path), "%s/%s", folder, file ? file : "");
		entry->body = expected_slurp(path, &entry->body_len);
		if (entry->body == NULL)
		{
			fprintf(stderr, "could not read %s\n", path);
			exit(1);
		}
	}
	return loader.first;
}
