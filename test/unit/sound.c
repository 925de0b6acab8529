/*-------------------------------------------------------------------------
 *
 * sound.c
 *		What tests of answers ask of them.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <time.h>

#include "response/answer.h"
#include "bytes.h"
#include "sound.h"

/* Read a string that came with a 200. */
Answer
read_string(const char *body)
{
	Answer		answer;

	answer_read(&answer, 200, NULL, body, strlen(body));
	return answer;
}

bool
same(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

/*
 * A date as in expected.json; the calendar is the C library's, so that the
 * reader's is not compared with itself.
 */
const char *
date_text(bool known, TimestampTz value)
{
	static char text[64];
	int64		usecs;
	time_t		unix_time;
	struct tm	tm;
	size_t		len;

	if (!known)
		return NULL;
	if (value == DT_NOEND)
		return "infinity";
	usecs = value % USECS_PER_SEC;
	if (usecs < 0)
		usecs += USECS_PER_SEC;
	/* 946684800: 2000-01-01 as Unix time */
	unix_time = (value - usecs) / USECS_PER_SEC + 946684800;
	gmtime_r(&unix_time, &tm);
	len = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	if (usecs != 0)
		snprintf(text + len, sizeof(text) - len, ".%06dZ", (int) usecs);
	else
		snprintf(text + len, sizeof(text) - len, "Z");
	return text;
}

int
characters(const char *s)
{
	int			n = 0;

	for (; *s != '\0'; s++)
		n += (*s & 0xC0) != 0x80;
	return n;
}

/* A line: valid, without control characters, not empty, bounded. */
static bool
good_line(const char *s, int max)
{
	if (s == NULL)
		return true;
	for (const unsigned char *c = (const unsigned char *) s; *c != '\0'; c++)
	{
		if (*c < 0x20 || *c == 0x7F)
			return false;
	}
	return s[0] != '\0' && is_utf8(s, strlen(s)) && characters(s) <= max;
}

static bool
good_files(const Answer *answer)
{
	if (answer->nfiles < -1 || answer->nfiles > 4002)
		return false;
	for (int i = 0; i < answer->nfiles; i++)
	{
		const AnswerFile *file = &answer->files[i];

		if (file->file_url == NULL || !good_line(file->file_url, 8192) ||
			!good_line(file->file_type, 200) ||
			!good_line(file->storage_mode, 200) ||
			!good_line(file->file_id, 200) ||
			!good_line(file->media_name, 200) ||
			(file->expire_time.known && file->expire_time.value != DT_NOEND &&
			 !IS_VALID_TIMESTAMP(file->expire_time.value)))
			return false;
	}
	return true;
}

bool
is_sound(const Answer *answer)
{
	if (!good_line(answer->status, 200) || !good_line(answer->task_type, 200) ||
		!good_line(answer->error_code, 200) || !good_line(answer->model, 200) ||
		!good_line(answer->request_id, 200) ||
		!good_line(answer->file_url, 8192) ||
		!good_line(answer->flaw_detail, 200) || !good_files(answer))
		return false;
	if (answer->error_message != NULL &&
		(!is_utf8(answer->error_message, strlen(answer->error_message)) ||
		 characters(answer->error_message) > ANSWER_MAX_MESSAGE))
		return false;
	if (answer->json != NULL && !is_utf8(answer->json, answer->json_len))
		return false;
	if (answer->progress < -1 || answer->progress > 100)
		return false;
	if (answer->verdict == ANSWER_UNREADABLE &&
		(answer->flaw == ANSWER_FLAW_NONE || answer->flaw_detail == NULL))
		return false;
	if (answer->flaw != ANSWER_FLAW_NONE &&
		answer->verdict != ANSWER_UNREADABLE &&
		!(answer->flaw == ANSWER_FLAW_HTML &&
		  answer->verdict == ANSWER_REJECTED))
		return false;
	return answer->verdict == ANSWER_SUCCEEDED || answer->file_url == NULL;
}
