/*-------------------------------------------------------------------------
 *
 * test_answer.c
 *		Properties of reading answers.
 *
 * Recorded bodies with their right reading lie in test/answers, found through
 * the environment: ANSWERS_OWN, and ANSWERS_DIR for another collection, which
 * is skipped when it is not there.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <sys/mman.h>
#include <time.h>

#include "response/answer.h"
#include "bytes.h"
#include "check.h"
#include "expected.h"
#include "memory.h"
#include "sound.h"

static Expected *own_bodies;
static Expected *more_bodies;

/* A text that grows; freed by nobody, the program ends soon. */
typedef struct Text
{
	char	   *data;
	size_t		len;
	size_t		room;
} Text;

static void
add_bytes(Text *text, const char *bytes, size_t len)
{
	if (text->len + len + 1 > text->room)
	{
		text->room = (text->len + len + 1) * 2;
		text->data = realloc(text->data, text->room);
	}
	memcpy(text->data + text->len, bytes, len);
	text->len += len;
	text->data[text->len] = '\0';
}

static void
add(Text *text, const char *string)
{
	add_bytes(text, string, strlen(string));
}

static Answer
read_text(const Text *text)
{
	Answer		answer;

	answer_read(&answer, 200, NULL, text->data, text->len);
	return answer;
}

static const char *
flaw_text(AnswerFlaw flaw)
{
	static const char *const names[] = {
		NULL, "empty", "not_json", "too_deep", "no_task", "html", "too_large"
	};

	return names[flaw];
}

/* All that an answer says, as a text to compare. */
static char *
describe(const Answer *answer)
{
	Text		text = {NULL, 0, 0};
	char		line[256];

	snprintf(line, sizeof(line),
			 "%s flaw=%d progress=%d nfiles=%d expire=%d/%lld "
			 "started=%d/%lld ended=%d/%lld",
			 answer_verdict_name(answer->verdict), answer->flaw,
			 answer->progress, answer->nfiles, answer->has_expire_time,
			 (long long) answer->expire_time, answer->has_started_at,
			 (long long) answer->started_at, answer->has_ended_at,
			 (long long) answer->ended_at);
	add(&text, line);
	for (int i = -1; i < answer->nfiles; i++)
	{
		const char *strings[] = {
			answer->status, answer->file_url, answer->task_type,
			answer->model, answer->error_code, answer->error_message,
			answer->request_id
		};

		if (i >= 0)
		{
			const AnswerFile *file = &answer->files[i];

			memset(strings, 0, sizeof(strings));
			strings[0] = file->file_url;
			strings[1] = file->file_type;
			strings[2] = file->storage_mode;
			strings[3] = file->file_id;
			strings[4] = file->media_name;
			strings[5] = date_text(file->expire_time.known,
								   file->expire_time.value);
		}
		for (int j = 0; j < (int) lengthof(strings); j++)
		{
			add(&text, " | ");
			add(&text, strings[j] != NULL ? strings[j] : "(null)");
		}
	}
	return text.data;
}

/*-------------------------------------------------------------------------
 * Recorded bodies
 *-------------------------------------------------------------------------
 */

static void
read_expected(Answer *answer, const Expected *expected)
{
	answer_read(answer, atoi(expected_get(expected, "http", NULL)),
				expected_get(expected, "Content-Type", NULL),
				expected->body, expected->body_len);
}

static int
number_of(const char *value, int otherwise)
{
	return value != NULL ? atoi(value) : otherwise;
}

/* Fields that only some collections tell. */
static void
compare_more(const Answer *answer, const Expected *expected)
{
	bool		told;
	const char *value;

	value = expected_get(expected, "flaw", &told);
	if (told)
		CHECK(same(flaw_text(answer->flaw), value));
	value = expected_get(expected, "model", &told);
	if (told)
		CHECK(same(answer->model, value));
	value = expected_get(expected, "request_id", &told);
	if (told)
		CHECK(same(answer->request_id, value));
	value = expected_get(expected, "started_at", &told);
	if (told)
		CHECK(same(date_text(answer->has_started_at, answer->started_at),
				   value));
	value = expected_get(expected, "ended_at", &told);
	if (told)
		CHECK(same(date_text(answer->has_ended_at, answer->ended_at), value));
}

/*
 * Null means none in every field; in "files" both null and 0 are said of
 * answers without one, so that 0 and "no Output" are not told apart here.
 */
static void
compare(const Answer *answer, const Expected *expected)
{
	const char *verdict = expected_get(expected, "verdict", NULL);

	if (strcmp(verdict, "refused") == 0)
		verdict = expected_get(expected, "reason", NULL);
	CHECK(same(answer_verdict_name(answer->verdict), verdict));
	CHECK(same(answer->status, expected_get(expected, "status", NULL)));
	CHECK(answer->progress ==
		  number_of(expected_get(expected, "progress", NULL), -1));
	CHECK(same(answer->file_url, expected_get(expected, "file_url", NULL)));
	CHECK(same(date_text(answer->has_expire_time, answer->expire_time),
			   expected_get(expected, "expire_time", NULL)));
	CHECK(same(answer->task_type, expected_get(expected, "task_type", NULL)));
	CHECK(same(answer->error_code,
			   expected_get(expected, "error_code", NULL)));
	CHECK(same(answer->error_message,
			   expected_get(expected, "error_message", NULL)));
	CHECK(Max(answer->nfiles, 0) ==
		  number_of(expected_get(expected, "files", NULL), 0));
	compare_more(answer, expected);
	CHECK(is_sound(answer));
}

static int
compare_all(const Expected *bodies)
{
	int			n = 0;

	for (const Expected *e = bodies; e != NULL; e = e->next, n++)
	{
		Answer		answer;

		read_expected(&answer, e);
		note("%s: %.400s", expected_get(e, "file", NULL), describe(&answer));
		compare(&answer, e);
		memory_reset();
	}
	return n;
}

static void
recorded_bodies_read_as_expected(void)
{
	CHECK(compare_all(own_bodies) >= 60);
	if (more_bodies != NULL)
		printf("# and %d bodies of another collection\n",
			   compare_all(more_bodies));
}

/* The body with a member in front; false if it does not begin with another. */
static bool
with_member(const Expected *e, const char *member, Expected *longer)
{
	size_t		len = strlen(member);

	if (e->body_len < 2 || e->body[0] != '{' || e->body[1] != '"')
		return false;
	*longer = *e;
	longer->body_len = e->body_len + len;
	longer->body = malloc(longer->body_len);
	longer->body[0] = '{';
	memcpy(longer->body + 1, member, len);
	memcpy(longer->body + 1 + len, e->body + 1, e->body_len - 1);
	return true;
}

/* A member that says nothing of the task changes nothing, escapes or not. */
static void
an_escape_elsewhere_changes_nothing(void)
{
	int			n = 0;

	for (const Expected *e = own_bodies; e != NULL; e = e->next)
	{
		Expected	escaped;
		Answer		answer;

		if (!with_member(e, "\"\\u0070ad\":\"a\\\\b\\\"c\",", &escaped))
			continue;
		read_expected(&answer, &escaped);
		note("%s: %.400s", expected_get(e, "file", NULL), describe(&answer));
		compare(&answer, e);
		memory_reset();
		free(escaped.body);
		n++;
	}
	CHECK(n >= 60);
}

/*
 * A body is cut off at byte len.  If it is one document, only white space may
 * be missing from a success; of two, the first may be whole.
 */
static void
check_prefix(const Expected *e, size_t len, bool one_document)
{
	size_t		rest_len = e->body_len - len;
	char	   *rest = malloc(rest_len + 1);
	char	   *next;
	Answer		answer;

	memcpy(rest, e->body + len, rest_len);
	rest[rest_len] = '\0';
	next = rest + strspn(rest, " \t\r\n");

	answer_read(&answer, 200, NULL, at_the_edge(e->body, len), len);
	note("%s, %zu bytes", expected_get(e, "file", NULL), len);
	CHECK(is_sound(&answer));
	if (answer.verdict == ANSWER_SUCCEEDED)
	{
		if (one_document)
			CHECK(next == rest + rest_len);
		else
			CHECK(*next == '{' || *next == '}');
	}
	free(rest);
	memory_reset();
}

static void
no_prefix_is_a_success(void)
{
	for (const Expected *e = own_bodies; e != NULL; e = e->next)
	{
		/* all of the short ones, some thousand of the long */
		size_t		step = 1 + e->body_len / rounds(2000);
		Answer		whole;
		bool		one_document;

		read_expected(&whole, e);
		one_document = whole.json != NULL;
		memory_reset();
		for (size_t len = 0; len < e->body_len; len += step)
			check_prefix(e, len, one_document);
	}
}

/*-------------------------------------------------------------------------
 * Order of keys
 *-------------------------------------------------------------------------
 */

/* The end of the JSON value (or "key": value) that begins at s. */
static const char *
value_end(const char *s, const char *end)
{
	int			depth = 0;
	bool		in_string = false;

	for (; s < end; s++)
	{
		if (in_string)
		{
			if (*s == '\\')
				s++;
			else if (*s == '"')
				in_string = false;
		}
		else if (*s == '"')
			in_string = true;
		else if (*s == '{' || *s == '[')
			depth++;
		else if (*s == '}' || *s == ']')
		{
			if (depth-- == 0)
				return s;
		}
		else if (*s == ',' && depth == 0)
			return s;
	}
	return s;
}

/* Write a value with the members of all its objects in random order. */
static void
shuffle(Text *out, const char *s, const char *end)
{
	const char *begins[200];
	const char *ends[200];
	int			n = 0;
	bool		object;
	char		bracket[2] = {0};

	/* a member's key, and what stands before a bracket */
	while (s < end && *s != '{' && *s != '[')
	{
		const char *to = s + 1;

		if (*s == '"')
		{
			while (*to != '"')
				to += *to == '\\' ? 2 : 1;
			to++;
		}
		add_bytes(out, s, to - s);
		s = to;
	}
	if (s >= end)
		return;

	object = *s == '{';
	for (s++; n < (int) lengthof(begins);)
	{
		begins[n] = s;
		ends[n] = s = value_end(s, end);
		n++;
		if (*s != ',')
			break;
		s++;
	}
	if (object)
	{
		for (int i = n - 1; i > 0; i--)
		{
			int			j = random_number() % (i + 1);
			const char *t = begins[i];

			begins[i] = begins[j];
			begins[j] = t;
			t = ends[i];
			ends[i] = ends[j];
			ends[j] = t;
		}
	}
	add(out, object ? "{" : "[");
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			add(out, ",");
		shuffle(out, begins[i], ends[i]);
	}
	bracket[0] = object ? '}' : ']';
	add(out, bracket);
}

/* Bodies "k..." say a key twice, and there the order does count. */
static void
any_order_of_keys_reads_the_same(void)
{
	int			n = 0;

	for (const Expected *e = own_bodies; e != NULL; e = e->next)
	{
		Answer		answer;
		char	   *before;

		read_expected(&answer, e);
		if (answer.json == NULL || e->body[0] != '{' || e->body_len > 20000 ||
			expected_get(e, "file", NULL)[0] == 'k')
			continue;
		before = describe(&answer);
		for (int round = 0; round < 20; round++)
		{
			Expected	shuffled = *e;
			Text		text = {NULL, 0, 0};
			char	   *after;

			shuffle(&text, e->body, e->body + e->body_len);
			shuffled.body = text.data;
			shuffled.body_len = text.len;
			read_expected(&answer, &shuffled);
			after = describe(&answer);
			note("%s: %s instead of %s", expected_get(e, "file", NULL), after,
				 before);
			CHECK(answer.json != NULL);
			CHECK(strcmp(before, after) == 0);
			free(after);
			free(text.data);
			n++;
		}
		free(before);
		memory_reset();
	}
	CHECK(n > 1000);
}

static void
random_bytes_never_raise(void)
{
	for (int round = 0; round < rounds(100000); round++)
	{
		char		bytes[64];
		size_t		len = random_bytes(bytes, sizeof(bytes));
		Answer		answer;

		answer_read(&answer, random_number() % 2 ? 200 : 429, NULL,
					at_the_edge(bytes, len), len);
		note("round %d", round);
		CHECK(is_sound(&answer));
		CHECK(answer.verdict != ANSWER_SUCCEEDED);
		memory_reset();
	}
}

/*-------------------------------------------------------------------------
 * Limits
 *-------------------------------------------------------------------------
 */

static void
add_repeated(Text *text, const char *string, int times)
{
	while (times-- > 0)
		add(text, string);
}

static void
nesting_is_read_to_the_limit_and_no_further(void)
{
	for (int depth = ANSWER_MAX_DEPTH - 2; depth <= ANSWER_MAX_DEPTH + 1;
		 depth++)
	{
		Text		text = {NULL, 0, 0};
		Answer		answer;

		/* brackets in strings do not count */
		add(&text, "{\"[[[[{{{{\":\"[[[[[[[[[[[[[\\\"[[[[\",\"x\":");
		add_repeated(&text, "[", depth - 1);
		add_repeated(&text, "]", depth - 1);
		add(&text, "}");
		answer = read_text(&text);
		note("%d deep", depth);
		if (depth > ANSWER_MAX_DEPTH)
			CHECK(answer.flaw == ANSWER_FLAW_TOO_DEEP);
		else
			CHECK(answer.flaw == ANSWER_FLAW_NO_TASK);
	}
}

/* The last bracket is looked for wherever it lies within a machine word. */
static void
open_brackets_count_to_the_last_byte(void)
{
	char		brackets[ANSWER_MAX_DEPTH + 2];

	memset(brackets, '[', sizeof(brackets));
	for (int spaces = 0; spaces < 8; spaces++)
	{
		Text		text = {NULL, 0, 0};
		Answer		answer;

		add_repeated(&text, " ", spaces);
		add_bytes(&text, brackets, ANSWER_MAX_DEPTH);
		answer = read_text(&text);
		note("%d spaces", spaces);
		CHECK(answer.flaw == ANSWER_FLAW_NOT_JSON);
		add(&text, "{");
		answer = read_text(&text);
		CHECK(answer.flaw == ANSWER_FLAW_TOO_DEEP);
	}
}

static void
as_many_objects_as_there_is_room_for_are_read(void)
{
	Text		text = {NULL, 0, 0};
	Answer		answer;

	add(&text, "{\"Response\":{");
	for (int i = 0; i < 63; i++)
	{
		char		member[32];

		snprintf(member, sizeof(member), "\"K%d\":{},", i);
		add(&text, member);
	}
	add(&text, "\"ATask\":{\"ErrCode\":7},\"TaskType\":\"A\","
			   "\"Status\":\"FINISH\"}}");
	answer = read_text(&text);
	CHECK(answer.verdict == ANSWER_FAILED);
	CHECK(same(answer.error_code, "7"));
}

static void
messages_are_cut_between_characters(void)
{
	Text		text = {NULL, 0, 0};
	Answer		answer;

	add(&text, "{\"Response\":{\"Error\":{\"Message\":\"a");
	add_repeated(&text, "\xE8\xAF\xB4\xF0\x9F\x98\x80", 2000);
	add(&text, "\",\"Code\":\"");
	add_repeated(&text, "\xE8\xAF\xB4", 300);
	add(&text, "\"}}}");
	answer = read_text(&text);
	CHECK(characters(answer.error_message) == ANSWER_MAX_MESSAGE);
	CHECK(strlen(answer.error_message) == 1 + 1000 * 3 + 999 * 4);
	CHECK(characters(answer.error_code) == 200);
	CHECK(is_sound(&answer));
}

static void
control_characters_become_spaces_wherever_they_are(void)
{
	Answer		answer;

	answer = read_string("{\"error\":{\"code\":\"\\u001ba\\u007fb\\n\","
						 "\"message\":\"\\u001b\\tx\\u0085\\r\\n\"}}");
	CHECK(same(answer.error_code, "a b"));
	CHECK(same(answer.error_message, " \tx \r\n"));
	answer = read_string("{\"error\":{\"message\":\"\"}}");
	CHECK(same(answer.error_message, ""));
}

static void
no_field_takes_a_megabyte(void)
{
	static const char *const bodies[] = {
		"{\"Response\":{\"TaskType\":\"Aigc\",\"Status\":\"%s\"}}",
		"{\"Response\":{\"TaskType\":\"%s\",\"Status\":\"FINISH\"}}",
		"{\"Response\":{\"RequestId\":\"%s\",\"Error\":{\"Code\":\"x\"}}}",
		"{\"Response\":{\"Status\":\"FINISH\",\"%s\":{\"TaskId\":\"1\"}}}",
		"{\"Response\":{\"Status\":\"FINISH\",\"ATask\":{\"TaskId\":\"1\","
		"\"Input\":{\"ModelName\":\"%s\",\"ModelVersion\":\"%s\"}}}}",
		"{\"Response\":{\"Status\":\"FINISH\",\"ATask\":{\"TaskId\":\"1\","
		"\"Output\":{\"FileInfos\":[{\"FileUrl\":\"u\",\"FileType\":\"%s\","
		"\"FileId\":\"%s\",\"MediaName\":\"%s\",\"StorageMode\":\"%s\"}]}}}}",
		"{\"error\":\"%s\"}",
		"{\"error\":{\"code\":\"%s\",\"type\":\"%s\",\"message\":\"%s\"}}",
		"{\"code\":\"%s\",\"message\":\"%s\"}",
		"{\"data\":{\"status\":\"%s\"}}",
	};
	char	   *big = malloc(1024 * 1024 + 1);

	memset(big, 'x', 1024 * 1024);
	big[1024 * 1024] = '\0';
	for (int i = 0; i < (int) lengthof(bodies); i++)
	{
		Text		text = {NULL, 0, 0};
		Answer		answer;

		for (const char *s = bodies[i]; *s != '\0'; s++)
		{
			if (*s == '%')
			{
				add(&text, big);
				s++;
			}
			else
				add_bytes(&text, s, 1);
		}
		answer = read_text(&text);
		note("%s", bodies[i]);
		CHECK(answer.verdict != ANSWER_UNREADABLE);
		CHECK(is_sound(&answer));
		free(text.data);
		memory_reset();
	}
	free(big);
}

static void
a_thousand_files_are_listed_and_no_more(void)
{
	Text		text = {NULL, 0, 0};
	Answer		answer;

	add(&text, "{\"Response\":{\"Status\":\"FINISH\",\"TaskType\":\"AigcX\","
			   "\"AigcX\":{\"Output\":{\"FileInfos\":[{\"FileUrl\":\"first\"}");
	add_repeated(&text, ",{\"FileUrl\":\"more\"}", 2000);
	add(&text, "]}}}}");
	answer = read_text(&text);
	CHECK(answer.verdict == ANSWER_SUCCEEDED);
	CHECK(answer.nfiles == 1000);
	CHECK(same(answer.file_url, "first"));
}

static void
without_output_there_is_no_list(void)
{
	Answer		answer;

	answer = read_string("{\"Response\":{\"Status\":\"FINISH\","
						 "\"ATask\":{\"TaskId\":\"1\"}}}");
	CHECK(answer.nfiles == -1 && answer.files == NULL);
	answer = read_string("{\"Response\":{\"Status\":\"FINISH\","
						 "\"ATask\":{\"TaskId\":\"1\",\"Output\":{}}}}");
	CHECK(answer.nfiles == 0);
}

/* The limit is checked before a byte is read: none of the gigabyte is. */
static void
a_gigabyte_is_too_large(void)
{
	size_t		len = (size_t) 1 << 30;
	char	   *body;
	Answer		answer;

	body = mmap(NULL, len, PROT_READ,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!CHECK(body != MAP_FAILED))
		return;
	answer_read(&answer, 200, NULL, body, len);
	CHECK(answer.verdict == ANSWER_UNREADABLE);
	CHECK(answer.flaw == ANSWER_FLAW_TOO_LARGE);
	CHECK(is_sound(&answer));
	answer_read(&answer, 503, NULL, body, len);
	CHECK(answer.verdict == ANSWER_TRANSIENT);
	munmap(body, len);
}

/*-------------------------------------------------------------------------
 * Verdicts
 *-------------------------------------------------------------------------
 */

static void
every_http_status_has_its_verdict(void)
{
	static const char body[] = "{\"Response\":{\"Status\":\"WAITING\","
							   "\"TaskType\":\"A\"}}";

	for (int status = 0; status < 700; status++)
	{
		AnswerVerdict expected = ANSWER_TRANSIENT;
		Answer		answer;

		if (status >= 200 && status < 300)
			expected = ANSWER_RUNNING;
		else if (status == 401 || status == 403)
			expected = ANSWER_AUTH;
		else if (status == 429)
			expected = ANSWER_RATE_LIMITED;
		else if (status >= 300 && status < 500)
			expected = ANSWER_REJECTED;

		answer_read(&answer, status, NULL, body, sizeof(body) - 1);
		note("HTTP %d", status);
		CHECK(answer.verdict == expected);
		CHECK(answer.http_status == status);
		CHECK((answer.status != NULL) == (expected == ANSWER_RUNNING));
		memory_reset();
	}
}

static void
every_verdict_has_a_name_of_its_own(void)
{
	for (int i = 0; i < ANSWER_VERDICTS; i++)
	{
		const char *name = answer_verdict_name((AnswerVerdict) i);

		CHECK(strcmp(name, "unknown") != 0);
		for (int j = 0; j < i; j++)
			CHECK(strcmp(name, answer_verdict_name((AnswerVerdict) j)) != 0);
	}
}

static void
a_complaint_says_where(void)
{
	Answer		answer;

	answer = read_string("{\"Response\":{} x");
	CHECK(same(answer.flaw_detail,
			   "the JSON document has an error at byte 16") ||
		  strstr(answer.flaw_detail, "broken off") != NULL);
	answer = read_string("{\"Response\":{}, , \"a\":1}");
	CHECK(same(answer.flaw_detail,
			   "the JSON document has an error at byte 17"));
	answer = read_string("{\"Response\":{");
	CHECK(same(answer.flaw_detail,
			   "the JSON document is broken off after 13 bytes"));
	answer = read_string("{} {}");
	CHECK(same(answer.flaw_detail,
			   "more text follows the JSON document at byte 4"));
	answer = read_string("error code: 524");
	CHECK(same(answer.flaw_detail, "the answer does not begin like JSON"));
}

/*-------------------------------------------------------------------------
 * Time and memory
 *-------------------------------------------------------------------------
 */

/* Shapes that repeat something up to a size, between a head and a tail. */
typedef struct Shape
{
	const char *name;
	const char *head;
	const char *unit;			/* '#' stands for a counter */
	const char *tail;
} Shape;

#define TASK_HEAD "{\"Response\":{\"Status\":\"FINISH\"," \
	"\"TaskType\":\"AigcX\",\"AigcX\":{\"Status\":\"FINISH\","

static const Shape shapes[] = {
	{"an echoed image", TASK_HEAD "\"Input\":{\"Prompt\":\"",
	 "iVBORw0KGgoAAAANSUhEUgAA", "\"}}}}"},
	{"a long message", TASK_HEAD "\"Message\":\"", "why why why ", "\"}}}"},
	{"task objects", "{\"Response\":{", "\"K#\":{},", "\"x\":1}}"},
	{"null keys", "{\"Response\":{\"ATask\":{},", "\"K#\":null,", "\"x\":1}}"},
	{"one task object again and again", "{\"Response\":{",
	 "\"A\":{\"Output\":{\"FileInfos\":[{\"FileUrl\":\"u\"}]}},", "\"x\":1}}"},
	{"files", TASK_HEAD "\"Output\":{\"FileInfos\":[",
	 "{\"FileUrl\":\"u#\"},", "{}]}}}}"},
	{"lists of files", TASK_HEAD "\"Output\":{",
	 "\"FileInfos\":[{\"FileUrl\":\"u#\"}],", "\"x\":1}}}}"},
	{"outputs", TASK_HEAD, "\"Output\":{\"FileInfos\":[{\"FileUrl\":\"u\"}]},",
	 "\"x\":1}}}"},
	{"responses", "{", "\"Response\":{\"A\":{}},", "\"x\":1}"},
	{"statuses", "{\"Response\":{", "\"Status\":\"s#\",", "\"x\":1}}"},
	{"small arrays", "{\"x\":[", "[],", "0]}"},
	{"escapes to be replaced", "{\"x\":\"", "\\ud83d\\u0000\\u8bf4", "\"}"},
	{"bytes to be replaced", "{\"x\":\"", "\xFF\xC3", "\"}"},
	{"quotes", "{\"x\":\"", "\\\"\\\\", "\"}"},
	{"digits", TASK_HEAD "\"ErrCode\":1", "0", "}}}"},
	{"spaces", "{", " ", "}"},
	{"strings in a list", "[", "\"s#\",", "0]"},
	{"documents", "{}", "{}", "{}"},
	{"open brackets", "", "[", ""},
};

static Text
make_shape(const Shape *shape, size_t size)
{
	Text		text = {NULL, 0, 0};
	int			counter = 0;

	add(&text, shape->head);
	while (text.len < size)
	{
		for (const char *s = shape->unit; *s != '\0'; s++)
		{
			char		number[16];

			if (*s == '#')
			{
				snprintf(number, sizeof(number), "%d", counter++);
				add(&text, number);
			}
			else
				add_bytes(&text, s, 1);
		}
	}
	add(&text, shape->tail);
	return text;
}

static double
cpu_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* The fastest of three, and the peak of memory. */
static double
time_to_read(const Text *text, size_t *peak)
{
	double		best = 1e9;

	for (int i = 0; i < 3; i++)
	{
		double		begin = cpu_seconds();
		double		took;
		Answer		answer;

		answer_read(&answer, 200, NULL, text->data, text->len);
		took = cpu_seconds() - begin;
		CHECK(is_sound(&answer));
		*peak = memory_peak();
		memory_reset();
		if (took < best)
			best = took;
	}
	return best;
}

/*
 * Sixteen times the bytes take sixteen times as long, where quadratic would be
 * 256 times; 64 leaves room for caches and page faults.  Memory is the copy
 * that sanitizing makes (three bytes for one at most), and the parser's buffer
 * for one string (doubled as it grows, so up to twice that copy).
 */
static void
time_and_memory_grow_with_the_body_only(void)
{
	size_t		size = is_slow() ? 1024 * 1024 : 16 * 1024 * 1024;

	for (int i = 0; i < (int) lengthof(shapes); i++)
	{
		Text		small = make_shape(&shapes[i], size / 16);
		Text		large = make_shape(&shapes[i], size);
		size_t		peak;
		double		small_time;
		double		large_time;

		small_time = time_to_read(&small, &peak);
		large_time = time_to_read(&large, &peak);
		note("%s: %.2f ms, 16 times as much %.2f ms, memory %.1f MB",
			 shapes[i].name, small_time * 1000, large_time * 1000,
			 peak / 1048576.0);
		/* two milliseconds: below that it is the clock that is measured */
		if (!is_slow())
			CHECK(large_time < Max(small_time, 0.002) * 64);
		CHECK(peak < 9 * large.len);
		if (getenv("ANYVOD_VERBOSE") != NULL)
			printf("# %s\n", check_note);
		free(small.data);
		free(large.data);
	}
}

/* Peaks of the same shapes where nothing is to be kept. */
static void
an_echoed_image_is_not_kept(void)
{
	Text		text = make_shape(&shapes[0], 16 * 1024 * 1024);
	Answer		answer;

	answer_read(&answer, 200, NULL, text.data, text.len);
	note("%zu bytes, %zu at most", memory_used(), memory_peak());
	CHECK(memory_used() < 64 * 1024);
	/* the parser's buffer doubles as it grows */
	CHECK(memory_peak() < 2 * text.len + 64 * 1024);
	memory_reset();
	free(text.data);
}

int
main(void)
{
	const char *own = getenv("ANSWERS_OWN");
	const char *more = getenv("ANSWERS_DIR");

	own_bodies = expected_load(own != NULL ? own : "../answers");
	more_bodies = more != NULL ? expected_load(more) : NULL;
	if (more_bodies == NULL)
		printf("# no other collection of bodies: skipped\n");
	memory_reset();

	RUN(recorded_bodies_read_as_expected);
	RUN(an_escape_elsewhere_changes_nothing);
	RUN(no_prefix_is_a_success);
	RUN(any_order_of_keys_reads_the_same);
	RUN(random_bytes_never_raise);
	RUN(nesting_is_read_to_the_limit_and_no_further);
	RUN(open_brackets_count_to_the_last_byte);
	RUN(as_many_objects_as_there_is_room_for_are_read);
	RUN(messages_are_cut_between_characters);
	RUN(control_characters_become_spaces_wherever_they_are);
	RUN(no_field_takes_a_megabyte);
	RUN(a_thousand_files_are_listed_and_no_more);
	RUN(without_output_there_is_no_list);
	RUN(a_gigabyte_is_too_large);
	RUN(every_http_status_has_its_verdict);
	RUN(every_verdict_has_a_name_of_its_own);
	RUN(a_complaint_says_where);
	RUN(time_and_memory_grow_with_the_body_only);
	RUN(an_echoed_image_is_not_kept);
	memory_reset();
	return check_summary();
}
