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
#include "mb/pg_wchar.h"

#include "compat.h"
#include "response/document.h"
#include "response/sanitize.h"

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
	PLACE_FILE,
	PLACE_FILE_LIST,			/* an array */
} Place;

typedef enum FieldKind
{
	FIELD_WORD,					/* a string, one line */
	FIELD_TEXT,					/* a string or number, one line */
	FIELD_CODE,					/* the same, 0 being none */
	FIELD_MESSAGE,				/* a string of several lines */
	FIELD_URL,
	FIELD_TIME,
	FIELD_PROGRESS,
	FIELD_FALSE,				/* notes that it is false */
	FIELD_ERROR,				/* an object, or a string */
	FIELD_OBJECT,
	FIELD_FILES,				/* an array of objects, or one of them */
	FIELD_TASK,					/* any other key of Response */
} FieldKind;

typedef struct Field
{
	const char *name;
	FieldKind	kind;
	size_t		offset;			/* in the struct of its place */
	Place		child;			/* what an object there is */
	size_t		child_size;
} Field;

#define SCALAR(key, kind, holder, member) \
	{key, kind, offsetof(holder, member), PLACE_DOCUMENT, 0}
#define OBJECT(key, kind, holder, member, place, child_type) \
	{key, kind, offsetof(holder, member), place, \
	 sizeof(child_type)}
#define FILES(key, i) \
	{key, FIELD_FILES, \
	 offsetof(Output, lists) + (i) * sizeof(FileList), PLACE_FILE_LIST, \
	 sizeof(FileList)}
#define END_OF_FIELDS {NULL, FIELD_WORD, 0, PLACE_DOCUMENT, 0}

static const Field document_fields[] = {
	OBJECT("error", FIELD_ERROR, Document, error, PLACE_GATEWAY_ERROR,
		   Refusal),
	SCALAR("code", FIELD_CODE, Document, code),
	SCALAR("message", FIELD_MESSAGE, Document, message),
	SCALAR("success", FIELD_FALSE, Document, unsuccessful),
	OBJECT("data", FIELD_OBJECT, Document, data, PLACE_WRAPPER, Wrapper),
	OBJECT("Response", FIELD_OBJECT, Document, response, PLACE_RESPONSE,
		   Response),
	END_OF_FIELDS
};

static const Field gateway_error_fields[] = {
	SCALAR("code", FIELD_CODE, Refusal, code),
	SCALAR("type", FIELD_WORD, Refusal, type),
	SCALAR("message", FIELD_MESSAGE, Refusal, message),
	END_OF_FIELDS
};

static const Field wrapper_fields[] = {
	SCALAR("status", FIELD_WORD, Wrapper, status),
	SCALAR("progress", FIELD_PROGRESS, Wrapper, progress),
	OBJECT("data", FIELD_OBJECT, Wrapper, raw, PLACE_RAW, Raw),
	OBJECT("Response", FIELD_OBJECT, Wrapper, response, PLACE_RESPONSE,
		   Response),
	END_OF_FIELDS
};

static const Field raw_fields[] = {
	OBJECT("Response", FIELD_OBJECT, Raw, response, PLACE_RESPONSE, Response),
	END_OF_FIELDS
};

static const Field response_fields[] = {
	SCALAR("Status", FIELD_WORD, Response, status),
	SCALAR("TaskType", FIELD_WORD, Response, task_type),
	SCALAR("RequestId", FIELD_WORD, Response, request_id),
	SCALAR("CreateTime", FIELD_TIME, Response, created),
	SCALAR("FinishTime", FIELD_TIME, Response, finished),
	OBJECT("Error", FIELD_OBJECT, Response, error, PLACE_RESPONSE_ERROR,
		   Refusal),
	END_OF_FIELDS
};

static const Field response_error_fields[] = {
	SCALAR("Code", FIELD_CODE, Refusal, code),
	SCALAR("Message", FIELD_MESSAGE, Refusal, message),
	END_OF_FIELDS
};

#define FILE_FIELDS(holder, prefix) \
	SCALAR("FileUrl", FIELD_URL, holder, prefix url), \
	SCALAR("ExpireTime", FIELD_TIME, holder, prefix expire), \
	SCALAR("FileType", FIELD_WORD, holder, prefix type), \
	SCALAR("StorageMode", FIELD_WORD, holder, prefix storage_mode), \
	SCALAR("FileId", FIELD_TEXT, holder, prefix id), \
	SCALAR("MediaName", FIELD_TEXT, holder, prefix media_name)

static const Field task_fields[] = {
	SCALAR("TaskId", FIELD_WORD, Task, id),
	SCALAR("Status", FIELD_WORD, Task, status),
	SCALAR("TaskStatus", FIELD_WORD, Task, task_status),
	SCALAR("ErrCode", FIELD_CODE, Task, err_code),
	SCALAR("ErrCodeExt", FIELD_CODE, Task, err_code_ext),
	SCALAR("Message", FIELD_MESSAGE, Task, message),
	SCALAR("Progress", FIELD_PROGRESS, Task, progress),
	OBJECT("Input", FIELD_OBJECT, Task, input, PLACE_INPUT, Input),
	OBJECT("Output", FIELD_OBJECT, Task, output, PLACE_OUTPUT, Output),
	FILE_FIELDS(Task, file.),
	END_OF_FIELDS
};

static const Field input_fields[] = {
	SCALAR("ModelName", FIELD_TEXT, Input, model_name),
	SCALAR("ModelVersion", FIELD_TEXT, Input, model_version),
	END_OF_FIELDS
};

static const Field output_fields[] = {
	FILES("FileInfos", 0),
	FILES("AudioInfos", 1),
	FILES("VideoInfos", 2),
	FILES("FileInfo", 3),
	FILE_FIELDS(Output, file.),
	END_OF_FIELDS
};

static const Field file_fields[] = {
	FILE_FIELDS(FoundFile, ),
	SCALAR("UsageType", FIELD_WORD, FoundFile, usage),
	END_OF_FIELDS
};

static const Field *const fields_of[] = {
	[PLACE_DOCUMENT] = document_fields,
	[PLACE_GATEWAY_ERROR] = gateway_error_fields,
	[PLACE_WRAPPER] = wrapper_fields,
	[PLACE_RAW] = raw_fields,
	[PLACE_RESPONSE] = response_fields,
	[PLACE_RESPONSE_ERROR] = response_error_fields,
	[PLACE_TASK] = task_fields,
	[PLACE_INPUT] = input_fields,
	[PLACE_OUTPUT] = output_fields,
	[PLACE_FILE] = file_fields,
};

static const Field task_field = {
	NULL, FIELD_TASK, 0, PLACE_TASK, sizeof(Task)
};


/*-------------------------------------------------------------------------
 * The parser's callbacks
 *-------------------------------------------------------------------------
 */

/* An object or array that is being read, from the document inwards. */
typedef struct Frame
{
	Place		place;
	void	   *noted;			/* the struct of that place */
	const Field *field;			/* the last that began; NULL: none that
								 * matters */
} Frame;

typedef struct Reader
{
	JsonLexContext *lex;
	JsonLexContext *decoder;	/* has the last string that had an escape */
	Document   *document;
	const char *name;			/* of the last field that began */
	size_t		name_len;
	Frame		frames[MAX_FRAMES];
	int			nframes;
	int			skipping;		/* depth inside a value that does not matter,
								 * 0: not in one */
} Reader;

static void forget_object(Place place, void *noted, size_t size);

static void
forget_files(FileList *list)
{
	for (int i = 0; i < list->count; i++)
		forget_object(PLACE_FILE, &list->files[i], sizeof(FoundFile));
	if (list->files != NULL)
		pfree(list->files);
	memset(list, 0, sizeof(*list));
}

/*
 * Forget what an earlier field of the same name said: the last one counts, as
 * in jsonb.  Its memory is freed, so that a body that says the same a million
 * times takes no more of it than one that says it once.
 */
static void
forget_field(const Field *field, void *noted)
{
	char	   *where = (char *) noted + field->offset;

	switch (field->kind)
	{
		case FIELD_WORD:
		case FIELD_TEXT:
		case FIELD_CODE:
		case FIELD_MESSAGE:
		case FIELD_URL:
			if (*(char **) where != NULL)
				pfree(*(char **) where);
			*(char **) where = NULL;
			break;
		case FIELD_TIME:
			((Time *) where)->known = false;
			break;
		case FIELD_PROGRESS:
			*(int *) where = 0;
			break;
		case FIELD_FALSE:
			*(bool *) where = false;
			break;
		case FIELD_FILES:
			forget_files((FileList *) where);
			break;
		case FIELD_ERROR:
		case FIELD_OBJECT:
			forget_object(field->child, where, field->child_size);
			break;
		case FIELD_TASK:
			break;
	}
}

/* Forget one of the task objects of a Response. */
static void
forget_task(Response *response, int i)
{
	Task	   *task = response->tasks[i];

	response->tasks[i] = response->tasks[--response->ntasks];
	forget_object(PLACE_TASK, task, sizeof(Task));
	pfree(task->key);
	pfree(task);
}

/* Forget all that was noted in a struct, size bytes of it. */
static void
forget_object(Place place, void *noted, size_t size)
{
	if (!*(bool *) noted)
		return;
	for (const Field *field = fields_of[place]; field->name != NULL; field++)
		forget_field(field, noted);
	if (place == PLACE_RESPONSE)
	{
		Response   *response = noted;

		while (response->ntasks > 0)
			forget_task(response, response->ntasks - 1);
	}
	if (place != PLACE_TASK)
		memset(noted, 0, size);
}

/* Is this the name, of len bytes? */
static bool
is_name(const char *string, const char *name, size_t len)
{
	return strncmp(string, name, len) == 0 && string[len] == '\0';
}

/* Where the task object of that key is in a Response, -1 if it is not. */
static int
task_index(const Response *response, const char *key, size_t len)
{
	for (int i = 0; i < response->ntasks; i++)
	{
		if (is_name(response->tasks[i]->key, key, len))
			return i;
	}
	return -1;
}

/*
 * document_task
 *		The object under that key in a Response, or NULL.
 */
Task *
document_task(const Response *response, const char *key)
{
	int			i = task_index(response, key, strlen(key));

	return i >= 0 ? response->tasks[i] : NULL;
}

/* A new task object under that key, NULL if there are too many already. */
static Task *
add_task(Response *response, const char *key, size_t len)
{
	Task	   *task;

	/* the variant that lacks the task object has its parts instead */
	if (is_name("Output", key, len))
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
	task->key = pnstrdup(key, len);
	response->tasks[response->ntasks++] = task;
	return task;
}

/* A new file in a list, NULL if the list is full. */
static FoundFile *
add_file(FileList *list)
{
	FoundFile  *file;

	if (list->count == MAX_FILES)
		return NULL;
	if (list->count == list->room)
	{
		int			room = list->room == 0 ? 4 : list->room * 2;

		if (list->files == NULL)
			list->files = palloc(room * sizeof(FoundFile));
		else
			list->files = repalloc(list->files, room * sizeof(FoundFile));
		list->room = room;
	}
	file = &list->files[list->count++];
	memset(file, 0, sizeof(FoundFile));
	return file;
}

static void
reader_push(Reader *reader, Place place, void *noted)
{
	Frame	   *frame;

	Assert(reader->nframes < MAX_FRAMES);
	frame = &reader->frames[reader->nframes++];
	frame->place = place;
	frame->noted = noted;
	frame->field = NULL;
}

/*
 * An object begins: which struct is it noted in, if any?
 */
static void *
object_target(Reader *reader, Place *place)
{
	Frame	   *frame;
	const Field *field;

	if (reader->nframes == 0)
	{
		*place = PLACE_DOCUMENT;
		return reader->document;
	}

	frame = &reader->frames[reader->nframes - 1];
	if (frame->place == PLACE_FILE_LIST)
	{
		*place = PLACE_FILE;
		return add_file(frame->noted);
	}

	field = frame->field;
	if (field == NULL)
		return NULL;
	*place = field->child;
	switch (field->kind)
	{
		case FIELD_ERROR:
		case FIELD_OBJECT:
			return (char *) frame->noted + field->offset;
		case FIELD_TASK:
			return add_task(frame->noted, reader->name, reader->name_len);
		case FIELD_FILES:
			/* one object where a list belongs is a list of one */
			*place = PLACE_FILE;
			return add_file((FileList *) ((char *) frame->noted +
										  field->offset));
		default:
			return NULL;
	}
}

static CompatJsonResult
reader_object_start(void *state)
{
	Reader	   *reader = state;
	Place		place = PLACE_DOCUMENT;
	void	   *noted;

	noted = reader->skipping > 0 ? NULL : object_target(reader, &place);
	if (noted == NULL)
		reader->skipping++;
	else
	{
		*(bool *) noted = true; /* each struct begins with "present" */
		reader_push(reader, place, noted);
	}
	COMPAT_JSON_DONE;
}

static CompatJsonResult
reader_array_start(void *state)
{
	Reader	   *reader = state;
	Frame	   *frame = NULL;

	if (reader->nframes > 0)
		frame = &reader->frames[reader->nframes - 1];

	if (reader->skipping == 0 && frame != NULL && frame->field != NULL &&
		frame->field->kind == FIELD_FILES)
		reader_push(reader, PLACE_FILE_LIST,
					(char *) frame->noted + frame->field->offset);
	else
		reader->skipping++;
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
	if (reader->nframes == 0 && reader->skipping == 0)
		reader->document->complete = true;
	COMPAT_JSON_DONE;
}

/* The field of that name, NULL if it does not matter. */
static const Field *
find_field(Place place, const char *name, size_t len)
{
	for (const Field *field = fields_of[place]; field->name != NULL; field++)
	{
		if (is_name(field->name, name, len))
			return field;
	}
	return NULL;
}

/* Note a string or number of len bytes. */
static void
note_text(const Field *field, char *where, const char *text, size_t len,
		  bool is_string)
{
	switch (field->kind)
	{
		case FIELD_WORD:
			if (is_string)
				*(char **) where = value_line(text, len);
			break;
		case FIELD_TEXT:
			*(char **) where = value_line(text, len);
			break;
		case FIELD_CODE:
			if (!value_is_zero(text, len))
				*(char **) where = value_line(text, len);
			break;
		case FIELD_MESSAGE:
			if (is_string)
				*(char **) where = value_message(text, len);
			break;
		case FIELD_URL:
			if (is_string)
				*(char **) where = value_url(text, len);
			break;
		case FIELD_TIME:
			if (is_string)
				*(Time *) where = value_time(text, len);
			break;
		case FIELD_PROGRESS:
			*(int *) where = value_progress(text, len) + 1;
			break;
		case FIELD_ERROR:
			if (!is_string || len == 0)
				break;
			((Refusal *) where)->present = true;
			((Refusal *) where)->message = value_message(text, len);
			break;
		default:
			break;
	}
}

/*
 * What stands between the quotes at "begin" and before "end".  Most strings
 * are that as they stand.
 */
static const char *
reader_string(Reader *reader, const char *begin, const char *end, size_t *len)
{
	*len = end - begin - 2;
	if (memchr(begin, '\\', end - begin) == NULL)
		return begin + 1;
	if (reader->decoder != NULL)
		compat_json_lex_free(reader->decoder);
	reader->decoder = compat_json_lex(begin, end - begin, PG_UTF8, true);
	(void) json_lex(reader->decoder);
	*len = reader->decoder->strval->len;
	return reader->decoder->strval->data;
}

/* Note the value that the parser is at, if it is no object or array. */
static void
note_value(Reader *reader, const Field *field, char *where)
{
	const JsonLexContext *lex = reader->lex;
	const char *text;
	size_t		len;

	switch (lex->token_type)
	{
		case JSON_TOKEN_STRING:
			text = reader_string(reader, lex->token_start,
								 lex->token_terminator, &len);
			note_text(field, where, text, len, true);
			break;
		case JSON_TOKEN_NUMBER:
			note_text(field, where, lex->token_start,
					  lex->token_terminator - lex->token_start, false);
			break;
		case JSON_TOKEN_FALSE:
			if (field->kind == FIELD_FALSE)
				*(bool *) where = true;
			break;
		default:
			break;
	}
}

/*
 * The name of the field whose value the parser is at: the string before the
 * colon that it has just passed.
 */
static void
reader_find_name(Reader *reader)
{
	const char *end = reader->lex->prev_token_terminator;
	const char *begin;
	int			escapes;

	while (end[-1] != '"')
		end--;
	begin = end - 1;
	do
	{
		escapes = 0;
		while (*--begin != '"')
			;
		while (begin[-1 - escapes] == '\\')
			escapes++;
	} while (escapes % 2 == 1);
	reader->name = reader_string(reader, begin, end, &reader->name_len);
}

/* A field begins, and the parser is at its value. */
static CompatJsonResult
reader_field_start(void *state, char *unknown, bool isnull)
{
	Reader	   *reader = state;
	Frame	   *frame;
	const Field *field;

	if (reader->skipping > 0)
		COMPAT_JSON_DONE;

	reader_find_name(reader);
	frame = &reader->frames[reader->nframes - 1];
	field = find_field(frame->place, reader->name, reader->name_len);
	if (field != NULL)
	{
		forget_field(field, frame->noted);
		note_value(reader, field, (char *) frame->noted + field->offset);
	}
	else if (frame->place == PLACE_RESPONSE)
	{
		int			i = task_index(frame->noted, reader->name,
								   reader->name_len);

		if (i >= 0)
			forget_task(frame->noted, i);
		field = &task_field;
	}

	if (frame->place == PLACE_RAW)
		((Raw *) frame->noted)->filled = true;
	frame->field = field;
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
static char *
parse_complaint(const Document *document, const JsonLexContext *lex)
{
	const char *text = document->text;
	size_t		len = document->text_len;
	size_t		where = len;
	char		first = first_byte(text, len);

	if (first != '{' && first != '[')
		return pstrdup("the answer does not begin like JSON");
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
set_flaw(Document *document, AnswerFlaw flaw, char *detail)
{
	document->flaw = flaw;
	document->flaw_detail = detail;
}

/* Run the parser over the text, which is fit for it. */
static void
parse(Document *document, const char *content_type)
{
	JsonLexContext *lex = compat_json_lex(document->text, document->text_len,
										  PG_UTF8, false);
	Reader		reader = {.lex = lex, .document = document};
	JsonSemAction actions = {
		.semstate = &reader,
		.object_start = reader_object_start,
		.object_end = reader_end,
		.array_start = reader_array_start,
		.array_end = reader_end,
		.object_field_start = reader_field_start,
	};

	if (pg_parse_json(lex, &actions) == JSON_SUCCESS)
		document->complete = true;
	else if (type_is_html(content_type))
		set_flaw(document, ANSWER_FLAW_HTML,
				 pstrdup("the answer is a web page"));
	else
		set_flaw(document, ANSWER_FLAW_NOT_JSON,
				 parse_complaint(document, lex));
	if (reader.decoder != NULL)
		compat_json_lex_free(reader.decoder);
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
	if (document->text == NULL)
	{
		set_flaw(document, ANSWER_FLAW_TOO_LARGE,
				 pstrdup("the answer is larger than 1 GB"));
		return;
	}

	first = first_byte(document->text, document->text_len);
	if (first == '\0')
		set_flaw(document, ANSWER_FLAW_EMPTY, pstrdup("the answer is empty"));
	else if (first == '<')
		set_flaw(document, ANSWER_FLAW_HTML,
				 pstrdup("the answer is a web page"));
	else if (too_deep)
		set_flaw(document, ANSWER_FLAW_TOO_DEEP,
				 psprintf("the answer is nested deeper than %d levels",
						  ANSWER_MAX_DEPTH));
	else
		parse(document, content_type);
}
