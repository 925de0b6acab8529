/*-------------------------------------------------------------------------
 *
 * fuzz_key.c
 *		Any bytes at all, as a key file's content and as a task id.
 *
 * What is accepted is put into a header and into a URL as it is, so it is
 * held against the characters that may stand there, told in another way than
 * in validate.c.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <ctype.h>
#include <regex.h>

#include "fuzz.h"
#include "server/validate.h"

/* All of ASCII that is printed, but for the blank? */
static bool
all_visible(const uint8 *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
	{
		if (!isascii(data[i]) || !isgraph(data[i]))
			return false;
	}
	return true;
}

/* Does a visible text have something around it that is not the key's? */
static bool
is_wrapped(const uint8 *data, size_t size)
{
	static const char pattern[] =
		"^[\"'`]|[\"'`]$|"
		"^[a-z_][a-z0-9_]*=([\"'`]|sk-)|"
		"^([a-z_][a-z0-9_]*)?(key|token|secret)[a-z0-9_]*=[^=]";
	static regex_t regex;
	static bool compiled = false;
	char		text[MAX_API_KEY_LENGTH + 1];

	if (!compiled)
		REQUIRE(regcomp(&regex, pattern,
						REG_EXTENDED | REG_ICASE | REG_NOSUB) == 0);
	compiled = true;
	memcpy(text, data, size);
	text[size] = '\0';
	return regexec(&regex, text, 0, NULL, 0) == 0;
}

static void
require_key(const uint8 *data, size_t size)
{
	size_t		len = validate_key_file((const char *) data, size);
	size_t		end = size;

	REQUIRE(len <= size && len <= MAX_API_KEY_LENGTH);
	while (end > 0 && strchr("\r\n", data[end - 1]) != NULL &&
		   data[end - 1] != '\0')
		end--;
	if (end >= 1 && end <= MAX_API_KEY_LENGTH && all_visible(data, end) &&
		!is_wrapped(data, end))
		REQUIRE(len == end);
	else
		REQUIRE(len == 0);
	REQUIRE(len == 0 || validate_api_key((const char *) data, len));
}

static bool
may_stand_in_id(uint8 c)
{
	return isascii(c) && (isalnum(c) || c == '_' || c == '.' || c == '-');
}

static void
require_task_id(const uint8 *data, size_t size)
{
	bool		valid = validate_task_id((const char *) data, size);
	bool		fit = size >= 1 && size <= MAX_TASK_ID_LENGTH;

	for (size_t i = 0; i < size && fit; i++)
		fit = may_stand_in_id(data[i]);
	if (fit && data[0] == '.' && (size == 1 || (size == 2 && data[1] == '.')))
		fit = false;
	REQUIRE(valid == fit);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	require_key(data, size);
	require_task_id(data, size);
	return 0;
}
