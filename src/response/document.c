/*-------------------------------------------------------------------------
 *
 * document.c
 *		What a body holds of the fields that matter.
 *
 * PostgreSQL's own parser runs over the text once, with callbacks that know
 * where they are and note the fields that matter.  No tree is built.  Keys
 * come in any order (TaskType after the task objects, Output before Status),
 * so nothing is decided here.
 *
 * Whatever arrives may be hostile or broken, and none of it raises an error:
 * the nesting is bounded before the parser's stack check could object, no \u
 * escape beyond ASCII reaches a lexer that would have to convert it to the
 * server encoding, and each list and each kept string has a limit.
 *
 * Copyright (c) 2026, the anyvod authors
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "lib/stringinfo.h"

#include "compat.h"
#include "response/document.h"
#include "response/sanitize.h"
#include "response/value.h"

/*
 * Files of one list.  A task makes 9 images at most; a thousand leaves room
 * for what comes, and what lies beyond is not listed.
 */
#define MAX_FILES 1000

/* Objects and arrays between the top and a file's fields, with a reserve. */
#define MAX_FRAMES 10


/*-------------------------------------------------------------------------
 * The fields that matter
 *-------------------------------------------------------------------------
 */

/* Which of these an object of the text is. */
typedef enum Place
{
	PLACE_DOCUMENT,
	PLACE_GATEWAY_ERROR,
	PLACE_WRAPPER,
	PLACE_RAW,
	PLACE_RESPONSE,
	PLACE_RESPONSE_ERROR,
	PLACE_TASK,
	PLACE_INPUT,
	PLACE_OUTPUT,
	PLACE_LISTED_FILE,
	PLACE_FILE_LIST,			/* an array */
} Place;

typedef enum FieldKind
{
	/* noted as a string */
	FIELD_TEXT,					/* a string or number, one line */
	FIELD_CODE,					/* the same, 0 being none */
	FIELD_WORD,					/* a string, one line */
	FIELD_MESSAGE,				/* a string of several lines */
	FIELD_URL,
	/* as something of a fixed size */
	FIELD_TIME,
	FIELD_PROGRESS,
	FIELD_FALSE,				/* notes that it is false */
	/* as a struct of its own place */
	FIELD_ERROR,				/* an object, or a string */
	FIELD_OBJECT,
	FIELD_FILES,				/* an array of objects, or one of them */
} FieldKind;

typedef struct Field
{
	Place		place;			/* what it is a field of */
	const char *name;
	FieldKind	kind;
	size_t		offset;			/* in the struct of its place */
	size_t		size;
	Place		child;			/* what an object there is */
} Field;

#define CHILD(place, holder, name, kind, member, child) \
	{PLACE_##place, name, FIELD_##kind, offsetof(holder, member), \
	 sizeof(((holder *) 0)->member), PLACE_##child}
#define SCALAR(place, holder, name, kind, member) \
	{PLACE_##place, name, FIELD_##kind, offsetof(holder, member), \
	 sizeof(((holder *) 0)->member), 0}
#define FILE_FIELDS(place, holder, prefix) \
	SCALAR(place, holder, "FileUrl", URL, prefix file_url), \
	SCALAR(place, holder, "ExpireTime", TIME, prefix expire_time), \
	SCALAR(place, holder, "FileType", WORD, prefix file_type), \
	SCALAR(place, holder, "StorageMode", WORD, prefix storage_mode), \
	SCALAR(place, holder, "FileId", TEXT, prefix file_id), \
	SCALAR(place, holder, "MediaName", TEXT, prefix media_name)

static const Field fields[] = {
	CHILD(DOCUMENT, Document, "error", ERROR, error, GATEWAY_ERROR),
	SCALAR(DOCUMENT, Document, "code", CODE, code),
	SCALAR(DOCUMENT, Document, "message", MESSAGE, message),
	SCALAR(DOCUMENT, Document, "success", FALSE, unsuccessful),
	CHILD(DOCUMENT, Document, "data", OBJECT, data, WRAPPER),
	CHILD(DOCUMENT, Document, "Response", OBJECT, response, RESPONSE),

	SCALAR(GATEWAY_ERROR, Refusal, "code", CODE, code),
	SCALAR(GATEWAY_ERROR, Refusal, "type", WORD, type),
	SCALAR(GATEWAY_ERROR, Refusal, "message", MESSAGE, message),

	SCALAR(WRAPPER, Wrapper, "status", WORD, status),
	SCALAR(WRAPPER, Wrapper, "progress", PROGRESS, progress),
	CHILD(WRAPPER, Wrapper, "data", OBJECT, raw, RAW),
	CHILD(WRAPPER, Wrapper, "Response", OBJECT, response, RESPONSE),

	CHILD(RAW, Raw, "Response", OBJECT, response, RESPONSE),

	SCALAR(RESPONSE, Response, "Status", WORD, status),
	SCALAR(RESPONSE, Response, "TaskType", WORD, task_type),
	SCALAR(RESPONSE, Response, "RequestId", WORD, request_id),
	SCALAR(RESPONSE, Response, "CreateTime", TIME, created),
	SCALAR(RESPONSE, Response, "FinishTime", TIME, finished),
	CHILD(RESPONSE, Response, "Error", OBJECT, error, RESPONSE_ERROR),

	SCALAR(RESPONSE_ERROR, Refusal, "Code", CODE, code),
	SCALAR(RESPONSE_ERROR, Refusal, "Message", MESSAGE, message),

	SCALAR(TASK, Task, "TaskId", WORD, id),
	SCALAR(TASK, Task, "Status", WORD, status),
	SCALAR(TASK, Task, "TaskStatus", WORD, task_status),
	SCALAR(TASK, Task, "ErrCode", CODE, err_code),
	SCALAR(TASK, Task, "ErrCodeExt", CODE, err_code_ext),
	SCALAR(TASK, Task, "Message", MESSAGE, message),
	SCALAR(TASK, Task, "Progress", PROGRESS, progress),
	CHILD(TASK, Task, "Input", OBJECT, input, INPUT),
	CHILD(TASK, Task, "Output", OBJECT, output, OUTPUT),
	FILE_FIELDS(TASK, Task, file.),

	SCALAR(INPUT, Input, "ModelName", TEXT, model_name),
	SCALAR(INPUT, Input, "ModelVersion", TEXT, model_version),

	CHILD(OUTPUT, Output, "FileInfos", FILES, lists[0], FILE_LIST),
	CHILD(OUTPUT, Output, "AudioInfos", FILES, lists[1], FILE_LIST),
	CHILD(OUTPUT, Output, "VideoInfos", FILES, lists[2], FILE_LIST),
	CHILD(OUTPUT, Output, "FileInfo", FILES, lists[3], FILE_LIST),
	FILE_FIELDS(OUTPUT, Output, file.),

	FILE_FIELDS(LISTED_FILE, AnswerFile, ),
	SCALAR(LISTED_FILE, AnswerFile, "UsageType", WORD, usage),
};


/*-------------------------------------------------------------------------
 * The parser's callbacks
 *-------------------------------------------------------------------------
 */

/* An object or array, and the struct in which it is noted. */
typedef struct Frame
{
	Place		place;
	void	   *noted;			/* NULL: it does not matter */
} Frame;

typedef struct Reader
{
	JsonLexContext *lex;
	Document   *document;
	Frame		frames[MAX_FRAMES]; /* that are open; the first is around the
									 * document */
	int			nframes;
	Frame		next;			/* what would begin at the current value */
	int			skipping;		/* depth inside a value that does not matter,
								 * 0: not in one */
} Reader;

static void forget_object(Place place, void *noted);

/*
 * Forget what an earlier field of the same name said: the last one counts, as
 * in jsonb.  Its memory is freed, so that a body that says the same a million
 * times takes no more of it than one that says it once.
 */
static void
forget_field(const Field *field, void *noted)
{
	char	   *where = (char *) noted + field->offset;

	if (field->kind >= FIELD_ERROR)
		forget_object(field->child, where);
	else if (field->kind <= FIELD_URL && *(char **) where != NULL)
		pfree(*(char **) where);
	memset(where, 0, field->size);
}

/* Forget one of the task objects of a Response. */
static void
forget_task(Response *response, Task **slot)
{
	Task	   *task = *slot;

	*slot = response->tasks[--response->ntasks];
	forget_object(PLACE_TASK, task);
	pfree(task->key);
	pfree(task);
}

/* Free all that a struct points to. */
static void
forget_object(Place place, void *noted)
{
	if (!*(bool *) noted)
		return;
	for (int i = 0; i < (int) lengthof(fields); i++)
	{
		if (fields[i].place == place)
			forget_field(&fields[i], noted);
	}
	if (place == PLACE_RESPONSE)
	{
		Response   *response = noted;

		while (response->ntasks > 0)
			forget_task(response, &response->tasks[0]);
	}
	else if (place == PLACE_FILE_LIST)
	{
		FileList   *list = noted;

		for (int i = 0; i < list->count; i++)
			forget_object(PLACE_LISTED_FILE, &list->files[i]);
		if (list->files != NULL)
			pfree(list->files);
	}
}

/*
 * document_task
 *		Where the object under that key in a Response is noted, or NULL.
 */
Task **
document_task(Response *response, const char *key)
{
	for (int i = 0; i < response->ntasks; i++)
	{
		if (strcmp(response->tasks[i]->key, key) == 0)
			return &response->tasks[i];
	}
	return NULL;
}

/* A new task object under that key, NULL if there are too many already. */
static Task *
add_task(Response *response, const char *key)
{
	Task	   *task;

	/* the variant that lacks the task object has its parts instead */
	if (strcmp(key, "Output") == 0)
	{
		response->flattened = true;
		return NULL;
	}
	if (response->ntasks == DOCUMENT_MAX_TASKS)
	{
		response->crowded = true;
		return NULL;
	}
	task = palloc0(sizeof(Task));
	task->key = pstrdup(key);
	response->tasks[response->ntasks++] = task;
	return task;
}

/* A new file in a list, NULL if the list is full. */
static AnswerFile *
add_file(FileList *list)
{
	if (list->count == MAX_FILES)
		return NULL;
	if (list->files == NULL)
	{
		list->room = 4;
		list->files = palloc(list->room * sizeof(AnswerFile));
	}
	else if (list->count == list->room)
	{
		list->room *= 2;
		list->files = repalloc(list->files, list->room * sizeof(AnswerFile));
	}
	list->present = true;
	memset(&list->files[list->count], 0, sizeof(AnswerFile));
	return &list->files[list->count++];
}

/* An object or array begins. */
static CompatJsonResult
reader_start(void *state)
{
	Reader	   *reader = state;
	const Frame *frame = &reader->frames[reader->nframes - 1];

	if (reader->skipping == 0 && frame->place == PLACE_FILE_LIST)
	{
		reader->next.place = PLACE_LISTED_FILE;
		reader->next.noted =
			reader->lex->token_type == JSON_TOKEN_OBJECT_START ?
			add_file(frame->noted) :
			NULL;
	}
	if (reader->skipping > 0 || reader->next.noted == NULL)
		reader->skipping++;
	else
	{
		Assert(reader->nframes < MAX_FRAMES);
		*(bool *) reader->next.noted = true;	/* "present" */
		reader->frames[reader->nframes++] = reader->next;
	}
	COMPAT_JSON_DONE;
}

/* The end of an object or array */
static CompatJsonResult
reader_end(void *state)
{
	Reader	   *reader = state;

	if (reader->skipping > 0)
		reader->skipping--;
	else
		reader->nframes--;
	if (reader->nframes == 1 && reader->skipping == 0)
		reader->document->complete = true;
	COMPAT_JSON_DONE;
}

/* Note a string, or a number as the text it is. */
static void
note_text(FieldKind kind, void *where, const char *text)
{
	char	  **string = where;

	switch (kind)
	{
		case FIELD_TEXT:
		case FIELD_WORD:
			*string = value_line(text);
			break;
		case FIELD_CODE:
			if (!value_is_zero(text))
				*string = value_line(text);
			break;
		case FIELD_MESSAGE:
			*string = value_message(text);
			break;
		case FIELD_URL:
			*string = value_url(text);
			break;
		case FIELD_TIME:
			*(Time *) where = value_time(text);
			break;
		case FIELD_PROGRESS:
			*(int *) where = value_progress(text) + 1;
			break;
		case FIELD_ERROR:
			if (*text == '\0')
				break;
			((Refusal *) where)->present = true;
			((Refusal *) where)->message = value_message(text);
			break;
		default:
			break;
	}
}

/*
 * A copy of the string between the quotes at "begin" and before "end", which the
 * parser has accepted.  Few have an escape: to have the parser decode all names
 * and strings takes as long as the rest of reading a response.
 */
static char *
reader_string(const char *begin, const char *end)
{
	JsonLexContext *decoder;
	char	   *string;

	if (memchr(begin, '\\', end - begin) == NULL)
		return pnstrdup(begin + 1, end - begin - 2);
	decoder = compat_json_lex(begin, end - begin, true);
	(void) json_lex(decoder);
	string = pstrdup(decoder->strval->data);
	compat_json_lex_free(decoder);
	return string;
}

/* Note the value of a field that the parser is at, or where to note it. */
static void
note_value(Reader *reader, const Field *field, void *where)
{
	const JsonLexContext *lex = reader->lex;
	char	   *text;

	switch (lex->token_type)
	{
		case JSON_TOKEN_STRING:
			text = reader_string(lex->token_start, lex->token_terminator);
			note_text(field->kind, where, text);
			pfree(text);
			break;
		case JSON_TOKEN_NUMBER:
			if (field->kind != FIELD_TEXT && field->kind != FIELD_CODE &&
				field->kind != FIELD_PROGRESS)
				break;
			text = pnstrdup(lex->token_start,
							lex->token_terminator - lex->token_start);
			note_text(field->kind, where, text);
			pfree(text);
			break;
		case JSON_TOKEN_FALSE:
			if (field->kind == FIELD_FALSE)
				*(bool *) where = true;
			break;
		case JSON_TOKEN_OBJECT_START:
			if (field->kind == FIELD_FILES)
				/* one object where a list belongs is a list of one */
				reader->next = (Frame){PLACE_LISTED_FILE, add_file(where)};
			else if (field->kind >= FIELD_ERROR)
				reader->next = (Frame){field->child, where};
			break;
		case JSON_TOKEN_ARRAY_START:
			if (field->kind == FIELD_FILES)
				reader->next = (Frame){PLACE_FILE_LIST, where};
			break;
		default:
			break;
	}
}

/* Note a field of an object that matters. */
static void
note_field(Reader *reader, const Frame *frame, const char *name)
{
	Task	  **task;

	reader->next.noted = NULL;
	if (frame->place == PLACE_RAW)
		((Raw *) frame->noted)->filled = true;
	for (int i = 0; i < (int) lengthof(fields); i++)
	{
		const Field *field = &fields[i];

		if (field->place == frame->place && strcmp(field->name, name) == 0)
		{
			forget_field(field, frame->noted);
			note_value(reader, field, (char *) frame->noted + field->offset);
			return;
		}
	}

	/* any other object in Response is a task */
	if (frame->place != PLACE_RESPONSE)
		return;
	task = document_task(frame->noted, name);
	if (task != NULL)
		forget_task(frame->noted, task);
	if (reader->lex->token_type == JSON_TOKEN_OBJECT_START)
		reader->next = (Frame){PLACE_TASK, add_task(frame->noted, name)};
}

/*
 * A copy of the name of the field whose value the parser is at: the string
 * before the colon that it has just passed.
 */
static char *
reader_name(const Reader *reader)
{
	const char *end = reader->lex->prev_token_terminator;
	const char *begin;
	int			escapes;

	while (end[-1] != '"')
		end--;
	begin = end - 1;
	do
	{
		while (*--begin != '"')
			;
		for (escapes = 0; begin[-1 - escapes] == '\\';)
			escapes++;
	} while (escapes % 2 == 1);
	return reader_string(begin, end);
}

/* A field begins, and the parser is at its value. */
static CompatJsonResult
reader_field_start(void *state, char *unknown, bool isnull)
{
	Reader	   *reader = state;
	char	   *name;

	if (reader->skipping > 0)
		COMPAT_JSON_DONE;
	name = reader_name(reader);
	note_field(reader, &reader->frames[reader->nframes - 1], name);
	pfree(name);
	COMPAT_JSON_DONE;
}


/*-------------------------------------------------------------------------
 * Reading
 *-------------------------------------------------------------------------
 */

/* The first byte of a text that is not white space, NUL if there is none. */
static char
first_byte(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] != ' ' && text[i] != '\t' && text[i] != '\n' &&
			text[i] != '\r')
			return text[i];
	}
	return '\0';
}

/* Does a Content-Type say that this is a web page? */
static bool
type_is_html(const char *content_type)
{
	if (content_type == NULL)
		return false;
	content_type += strspn(content_type, " \t");
	return pg_strncasecmp(content_type, "text/html", 9) == 0 ||
		pg_strncasecmp(content_type, "application/xhtml", 17) == 0;
}

/*
 * What the parser objected to, as a line of English.  The parser's own words
 * are translated, and quote tokens of any length.
 */
static const char *
parse_complaint(const Document *document, char first,
				const JsonLexContext *lex)
{
	const char *text = document->text;
	size_t		len = document->text_len;
	size_t		where = len;

	if (first != '{' && first != '[')
		return "the answer does not begin like JSON";
	if (lex->token_start != NULL && lex->token_start >= text)
		where = lex->token_start - text;
	if (document->complete)
		return psprintf("more text follows the JSON document at byte %zu",
						where + 1);
	if (lex->token_start == NULL || lex->token_terminator >= text + len)
		return psprintf("the JSON document is broken off after %zu bytes", len);
	return psprintf("the JSON document has an error at byte %zu", where + 1);
}

static void
set_flaw(Document *document, AnswerFlaw flaw, const char *detail)
{
	document->flaw = flaw;
	document->flaw_detail = detail;
}

/* Run the parser over the text, which is fit for it and begins so. */
static void
parse(Document *document, char first, const char *content_type)
{
	JsonLexContext *lex = compat_json_lex(document->text, document->text_len,
										  false);
	Reader		reader = {
		.lex = lex,
		.document = document,
		.nframes = 1,
		.next = {PLACE_DOCUMENT, first == '{' ? document : NULL},
	};
	JsonSemAction actions = {
		.semstate = &reader,
		.object_start = reader_start,
		.object_end = reader_end,
		.array_start = reader_start,
		.array_end = reader_end,
		.object_field_start = reader_field_start,
	};

	if (pg_parse_json(lex, &actions) == JSON_SUCCESS)
		document->complete = true;
	else if (type_is_html(content_type))
		set_flaw(document, ANSWER_FLAW_HTML, "the answer is a web page");
	else
		set_flaw(document, ANSWER_FLAW_NOT_JSON,
				 parse_complaint(document, first, lex));
	compat_json_lex_free(lex);
}

/*
 * document_read
 *		Note what matters of a body that came with that Content-Type, or NULL.
 *
 * Fills in *document, whatever it held, from len bytes of body, which need no
 * terminating NUL.  Raises no error.  All is palloc'd in the current memory
 * context, but for "text", which may point into the body.
 */
void
document_read(Document *document, const char *content_type,
			  const char *body, size_t len)
{
	bool		too_deep;
	char		first;

	memset(document, 0, sizeof(*document));
	document->text = sanitize_text(body, len, ANSWER_MAX_DEPTH,
								   &document->text_len, &too_deep);
	first = first_byte(document->text, document->text_len);
	if (document->text == NULL)
		set_flaw(document, ANSWER_FLAW_TOO_LARGE,
				 "the answer is larger than 1 GB");
	else if (first == '\0')
		set_flaw(document, ANSWER_FLAW_EMPTY, "the answer is empty");
	else if (first == '<')
		set_flaw(document, ANSWER_FLAW_HTML, "the answer is a web page");
	else if (too_deep)
		set_flaw(document, ANSWER_FLAW_TOO_DEEP,
				 psprintf("the answer is nested deeper than %d levels",
						  ANSWER_MAX_DEPTH));
	else
		parse(document, first, content_type);
}
