/*-------------------------------------------------------------------------
 *
 * fuzz_answer.c
 *		Any bytes at all, read as an answer.
 *
 * The first byte picks the HTTP status and Content-Type, the rest is the body.
 * Beyond not crashing and not raising an error, what is read must keep the
 * promises of answer.h.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "response/answer.h"
#include "bytes.h"
#include "fuzz.h"
#include "memory.h"
#include "response/sanitize.h"

static void
require_line(const char *s, size_t max_bytes)
{
	if (s == NULL)
		return;
	REQUIRE(*s != '\0' && strlen(s) <= max_bytes);
	REQUIRE(is_utf8(s, strlen(s)));
	for (; *s != '\0'; s++)
		REQUIRE((unsigned char) *s >= 0x20 && *s != 0x7F);
}

/* 200 characters are 800 bytes at most, 2,000 are 8,000 */
static void
require_promises(const Answer *answer)
{
	require_line(answer->status, 800);
	require_line(answer->task_type, 800);
	require_line(answer->model, 800);
	require_line(answer->error_code, 800);
	require_line(answer->request_id, 800);
	require_line(answer->flaw_detail, 200);
	require_line(answer->file_url, 8192);
	if (answer->error_message != NULL)
	{
		REQUIRE(strlen(answer->error_message) <= ANSWER_MAX_MESSAGE * 4);
		REQUIRE(is_utf8(answer->error_message,
						strlen(answer->error_message)));
	}
	REQUIRE((int) answer->verdict >= 0 && answer->verdict < ANSWER_VERDICTS);
	REQUIRE(answer->progress >= -1 && answer->progress <= 100);
	REQUIRE(answer->file_url == NULL || answer->verdict == ANSWER_SUCCEEDED);
	REQUIRE((answer->verdict == ANSWER_UNREADABLE) ==
			(answer->flaw != ANSWER_FLAW_NONE &&
			 answer->verdict != ANSWER_REJECTED));
	REQUIRE(answer->nfiles >= -1);
	for (int i = 0; i < answer->nfiles; i++)
	{
		REQUIRE(answer->files[i].file_url != NULL);
		require_line(answer->files[i].file_url, 8192);
		require_line(answer->files[i].file_type, 800);
		require_line(answer->files[i].file_id, 800);
		require_line(answer->files[i].storage_mode, 800);
		require_line(answer->files[i].media_name, 800);
	}
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	/* mostly 200, where most of the reading is done */
	static const int statuses[] = {200, 200, 200, 200, 401, 404, 429, 500};
	const char *body = (const char *) data + 1;
	Answer		answer;

	if (size == 0)
		return 0;
	answer_read(&answer, statuses[data[0] & 7],
				(data[0] & 8) ? "text/html" : NULL, body, size - 1);
	require_promises(&answer);
	if (answer.json != NULL)
	{
		Answer		again;
		size_t		len;
		bool		too_deep;

		REQUIRE(is_utf8(answer.json, answer.json_len));
		REQUIRE(sanitize_text(answer.json, answer.json_len,
							  ANSWER_MAX_DEPTH, &len, &too_deep) ==
				answer.json);
		/* the sane text says the same */
		answer_read(&again, answer.http_status, NULL, answer.json,
					answer.json_len);
		REQUIRE(again.verdict == answer.verdict);
		REQUIRE(again.nfiles == answer.nfiles);
		REQUIRE(again.progress == answer.progress);
	}
	memory_reset();
	return 0;
}
