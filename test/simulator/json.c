/*
 * json.c
 *		Writing JSON into memory that grows.
 *
 * The writer puts the commas itself, and with "trim" set it drops what is
 * zero, empty or null, objects and arrays included: so one piece of code
 * writes both shapes in which the gateway's answers come.  Reading JSON is
 * nobody's business here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

/*
 * realloc that does not come back empty-handed: a test tool without memory
 * has nothing better to do than to say so and end.
 */
void *
must_allocate(void *old, size_t size)
{
	void	   *new = realloc(old, size);

	if (new == NULL)
	{
		fputs("simulator: out of memory\n", stderr);
		exit(1);
	}
	return new;
}

void
json_free(Json *json)
{
	free(json->data);
	memset(json, 0, sizeof(*json));
}

/* Returns where "size" more bytes can be written. */
static char *
json_grow(Json *json, size_t size)
{
	if (json->room - json->length < size)
	{
		json->room = 2 * (json->length + size) + 1024;
		json->data = must_allocate(json->data, json->room);
	}
	json->length += size;
	return json->data + json->length - size;
}

void
json_raw(Json *json, const char *text, size_t length)
{
	memcpy(json_grow(json, length), text, length);
}

void
json_literal(Json *json, const char *text)
{
	json_raw(json, text, strlen(text));
}

void
json_fill(Json *json, char what, size_t times)
{
	memset(json_grow(json, times), what, times);
}

/* A comma if a value stands before, then the key if the value has one. */
void
json_key(Json *json, const char *key)
{
	if (json->depth > 0)
	{
		char		last = json->data[json->length - 1];

		if (last != '{' && last != '[')
			json_raw(json, ",", 1);
	}
	if (key != NULL)
	{
		json_raw(json, "\"", 1);
		json_literal(json, key);
		json_raw(json, "\":", 2);
	}
}

/* Opens an object or an array, as "bracket" says. */
void
json_open(Json *json, const char *key, char bracket)
{
	if (json->depth >= JSON_MAX_DEPTH)
		abort();
	json->opened[json->depth] = json->length;
	json_key(json, key);
	json_raw(json, &bracket, 1);
	json->depth++;
}

/*
 * Closes what was opened last.  When trimming, an empty one is taken back
 * with its key, except the document itself.
 */
void
json_close(Json *json)
{
	char		bracket = json->data[json->length - 1];

	json->depth--;
	if (bracket == '{' || bracket == '[')
	{
		if (json->trim && json->depth > 0)
		{
			json->length = json->opened[json->depth];
			return;
		}
	}
	else
	{
		size_t		at = json->opened[json->depth];

		/* the first bracket after the comma and the key */
		while (json->data[at] != '{' && json->data[at] != '[')
			at++;
		bracket = json->data[at];
	}
	json_raw(json, bracket == '{' ? "}" : "]", 1);
}

/* The inside of a JSON string: runs of plain characters go in one piece. */
static void
json_escape(Json *json, const char *text)
{
	static const char hex[] = "0123456789abcdef";

	for (;;)
	{
		const char *plain = text;
		unsigned char c;

		while ((unsigned char) *text >= 0x20 && *text != '"' && *text != '\\')
			text++;
		json_raw(json, plain, text - plain);
		if (*text == '\0')
			break;
		c = (unsigned char) *text++;
		if (c < 0x20)
		{
			char		escape[6] = {'\\', 'u', '0', '0'};

			escape[4] = hex[c >> 4];
			escape[5] = hex[c & 15];
			json_raw(json, escape, sizeof(escape));
		}
		else
		{
			char		escape[2] = {'\\', (char) c};

			json_raw(json, escape, sizeof(escape));
		}
	}
}

void
json_text(Json *json, const char *key, const char *value)
{
	if (json->trim && value[0] == '\0')
		return;
	json_key(json, key);
	json_raw(json, "\"", 1);
	json_escape(json, value);
	json_raw(json, "\"", 1);
}

/* A text that is escaped already, or wrong on purpose */
void
json_escaped(Json *json, const char *key, const char *value)
{
	if (json->trim && value[0] == '\0')
		return;
	json_key(json, key);
	json_raw(json, "\"", 1);
	json_literal(json, value);
	json_raw(json, "\"", 1);
}

/* A number without key or comma */
void
json_digits(Json *json, int64_t value)
{
	char		digits[24];

	snprintf(digits, sizeof(digits), "%" PRId64, value);
	json_literal(json, digits);
}

void
json_number(Json *json, const char *key, int64_t value)
{
	if (json->trim && value == 0)
		return;
	json_key(json, key);
	json_digits(json, value);
}

/* A number with a fraction, written as it is given */
void
json_real(Json *json, const char *key, const char *value)
{
	json_key(json, key);
	json_literal(json, value);
}

void
json_null(Json *json, const char *key)
{
	if (json->trim)
		return;
	json_key(json, key);
	json_literal(json, "null");
}
