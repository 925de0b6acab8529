/*
 * words.c
 *		What the words of a task id say, and the course of a task through time.
 *
 * README.md has the table of the words.  What is answered is the business of
 * answers.c.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

const TaskType task_types[] = {
	[TYPE_IMAGE] = {"AigcImageTask", "AigcImageTask", "GEM", "2.5", "png",
					OUTPUT_FILE_INFOS, true, true, 13000},
	[TYPE_VIDEO] = {"AigcVideoTask", "AigcVideoTask", "Kling", "2.1", "mp4",
					OUTPUT_FILE_INFOS, true, true, 75000},
	[TYPE_AUDIO] = {"AigcAudioTask", "AigcAudioTask", "Kling", "1.0", "mp3",
					OUTPUT_AUDIO, true, false, 30000},
	[TYPE_SCENE_IMAGE] = {"SceneAigcImageTask", "SceneAigcImageTask", "GEM",
						  "2.5", "png", OUTPUT_FILE_INFOS, false, true, 20000},
	[TYPE_SCENE_VIDEO] = {"SceneAigcVideoTask", "SceneAigcVideoTask", "Kling",
						  "2.1", "mp4", OUTPUT_FILE_INFOS, false, true, 75000},
	[TYPE_REDRAW] = {"AigcVideoRedrawTask", "AigcVideoRedrawTask", "Kling",
					 "2.1", "mp4", OUTPUT_FILE_INFO, true, true, 630000},
	[TYPE_HUNYUAN3D] = {"AigcHunyuan3DTask", "AigcHunyuan3DTask", "Hunyuan3D",
						"3.0", "glb", OUTPUT_MODELS, true, true, 120000},
	[TYPE_EDIT] = {"EditMedia", "EditMediaTask", "", "", "mp4", OUTPUT_FLAT,
				   true, true, 20000},
	[TYPE_PROCESS_IMAGE] = {"ProcessImageAsync", "ProcessImageAsyncTask", "",
							"", "png", OUTPUT_FILE_INFO, false, true, 5000},
	[TYPE_PROCEDURE] = {"Procedure", "ProcedureTask", "", "", "mp4",
						OUTPUT_PROCEDURE, true, true, 2000},
};

static const struct
{
	const char *word;
	int			type;
} type_words[] = {
	{"image", TYPE_IMAGE},
	{"AigcImageTask", TYPE_IMAGE},
	{"video", TYPE_VIDEO},
	{"AigcVideoTask", TYPE_VIDEO},
	{"audio", TYPE_AUDIO},
	{"AigcAudioTask", TYPE_AUDIO},
	{"SceneAigcImageTask", TYPE_SCENE_IMAGE},
	{"SceneAigcVideoTask", TYPE_SCENE_VIDEO},
	{"redraw", TYPE_REDRAW},
	{"AigcVideoRedrawTask", TYPE_REDRAW},
	{"hunyuan3d", TYPE_HUNYUAN3D},
	{"AigcHunyuan3DTask", TYPE_HUNYUAN3D},
	{"edit", TYPE_EDIT},
	{"EditMedia", TYPE_EDIT},
	{"processimage", TYPE_PROCESS_IMAGE},
	{"ProcessImageAsync", TYPE_PROCESS_IMAGE},
	{"procedure", TYPE_PROCEDURE},
	{"Procedure", TYPE_PROCEDURE},
};

/* Words that stand alone; each sets the bool at that offset. */
static const struct
{
	const char *word;
	size_t		offset;
} flag_words[] = {
	{"full", offsetof(Words, full)},
	{"wrap", offsetof(Words, wrap)},
	{"progress", offsetof(Words, progress)},
	{"permanent", offsetof(Words, permanent)},
	{"abort", offsetof(Words, abort)},
	{"fail", offsetof(Words, failed)},
	{"nul", offsetof(Words, nul)},
	{"badutf8", offsetof(Words, badutf8)},
	{"surrogate", offsetof(Words, surrogate)},
	{"uni", offsetof(Words, uni)},
	{"html", offsetof(Words, trouble.html)},
	{"empty", offsetof(Words, trouble.empty)},
	{"oneapi", offsetof(Words, trouble.oneapi)},
	{"unknown", offsetof(Words, trouble.unknown)},
	{"notjson", offsetof(Words, trouble.notjson)},
	{"double429", offsetof(Words, trouble.double429)},
	{"two", offsetof(Words, trouble.two)},
	{"reset", offsetof(Words, trouble.reset)},
	{"resetbody", offsetof(Words, trouble.resetbody)},
	{"cut", offsetof(Words, trouble.cut)},
	{"cutchunk", offsetof(Words, trouble.cutchunk)},
	{"close", offsetof(Words, trouble.close)},
	{"nofile", offsetof(Words, trouble.nofile)},
};

/* Words followed by a number; each sets the int64_t at that offset. */
static const struct
{
	const char *prefix;
	size_t		offset;
} number_words[] = {
	{"t", offsetof(Words, end)},
	{"b", offsetof(Words, creation)},
	{"wait", offsetof(Words, wait)},
	{"jump", offsetof(Words, jump)},
	{"files", offsetof(Words, files)},
	{"fail", offsetof(Words, code)},
	{"x", offsetof(Words, trouble_count)},
	{"http", offsetof(Words, trouble.http)},
	{"delay", offsetof(Words, trouble.delay)},
	{"dribble", offsetof(Words, trouble.dribble)},
	{"huge", offsetof(Words, trouble.huge)},
	{"deep", offsetof(Words, trouble.deep)},
	{"ra", offsetof(Words, trouble.retry_after)},
	{"rad", offsetof(Words, trouble.retry_date)},
};

/* More digits than these could overflow, times 20,000, in a sum of times. */
#define MAX_DIGITS 14

/* Deeper is pointless: the longest line of brackets is then 20 MB. */
#define MAX_DEEP INT64_C(10000000)

#define MAX_FILES 10

static const Trouble no_trouble = {.retry_after = -1, .retry_date = -1};

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_capital(char c)
{
	return c >= 'A' && c <= 'Z';
}

/* Reads a text of nothing but digits. */
static bool
read_number(const char *text, int64_t *number)
{
	size_t		length = strspn(text, "0123456789");

	if (length == 0 || length > MAX_DIGITS || text[length] != '\0')
		return false;
	*number = strtoll(text, NULL, 10);
	return true;
}

/* Copies what fits; a word that is too long is cut. */
static void
copy_text(char *target, size_t size, const char *source)
{
	size_t		length = strlen(source);

	if (length >= size)
		length = size - 1;
	memcpy(target, source, length);
	target[length] = '\0';
}

/* mNAME, vVERSION, extWORD, eCODE */
static void
read_text_word(const char *word, Words *words)
{
	if (word[0] == 'm' && is_capital(word[1]))
		copy_text(words->model, sizeof(words->model), word + 1);
	else if (word[0] == 'v' &&
			 (is_digit(word[1]) || is_capital(word[1]) || word[1] == 'q'))
		copy_text(words->version, sizeof(words->version), word + 1);
	else if (strncmp(word, "ext", 3) == 0 && is_capital(word[3]))
	{
		copy_text(words->code_ext, sizeof(words->code_ext), word + 3);
		words->failed = true;
	}
	else if (word[0] == 'e' && is_capital(word[1]))
		copy_text(words->trouble.code, sizeof(words->trouble.code), word + 1);
}

static void
read_word(const char *word, Words *words, bool *scene)
{
	char	   *base = (char *) words;

	for (size_t i = 0; i < LENGTH_OF(type_words); i++)
	{
		if (strcmp(word, type_words[i].word) == 0)
		{
			words->type = &task_types[type_words[i].type];
			return;
		}
	}
	for (size_t i = 0; i < LENGTH_OF(flag_words); i++)
	{
		if (strcmp(word, flag_words[i].word) == 0)
		{
			*(bool *) (base + flag_words[i].offset) = true;
			return;
		}
	}
	for (size_t i = 0; i < LENGTH_OF(number_words); i++)
	{
		size_t		length = strlen(number_words[i].prefix);

		if (strncmp(word, number_words[i].prefix, length) == 0 &&
			read_number(word + length,
						(int64_t *) (base + number_words[i].offset)))
			return;
	}
	if (strcmp(word, "scene") == 0)
		*scene = true;
	else
		read_text_word(word, words);
}

/* Numbers within their bounds, and what one word means for another */
static void
settle_words(Words *words, bool scene)
{
	Trouble    *trouble = &words->trouble;

	if (scene && words->type == &task_types[TYPE_VIDEO])
		words->type = &task_types[TYPE_SCENE_VIDEO];
	else if (scene)
		words->type = &task_types[TYPE_SCENE_IMAGE];
	if (words->model[0] == '\0')
		copy_text(words->model, sizeof(words->model), words->type->model);
	if (words->version[0] == '\0')
		copy_text(words->version, sizeof(words->version), words->type->version);
	if (words->files > MAX_FILES)
		words->files = MAX_FILES;
	if (words->code >= 0 || words->abort)
		words->failed = true;
	if (words->code < 0)
		words->code = 70000;
	if (words->code_ext[0] == '\0')
		copy_text(words->code_ext, sizeof(words->code_ext),
				  words->abort ? "OperationCanceled" : "InternalError");
	if (trouble->http < 200 || trouble->http > 599)
		trouble->http = 0;
	if (trouble->deep > MAX_DEEP)
		trouble->deep = MAX_DEEP;
}

/* Reads a task id.  Words that mean nothing here are passed over. */
void
words_read(const char *id, Words *words)
{
	char		word[128];
	bool		scene = false;

	memset(words, 0, sizeof(*words));
	words->type = &task_types[TYPE_IMAGE];
	words->creation = -1;
	words->jump = -1;
	words->code = -1;
	words->trouble_count = -1;
	words->files = 1;
	words->trouble = no_trouble;

	while (*id != '\0')
	{
		size_t		length = strcspn(id, "-");

		if (length > 0 && length < sizeof(word))
		{
			memcpy(word, id, length);
			word[length] = '\0';
			read_word(word, words, &scene);
		}
		id += length;
		if (*id == '-')
			id++;
	}
	settle_words(words, scene);
}

/* After the first N questions of xN: from now on all is well. */
void
words_end_trouble(Words *words)
{
	words->trouble = no_trouble;
}

/*
 * The course of a task that was first asked about at "first".  Without tMS
 * and bUNIXMS it ended a second before that, after a usual time of running.
 */
Course
task_course(const Words *words, int64_t first)
{
	Course		course;

	if (words->end == 0 && words->creation < 0)
	{
		course.ends = first - 1000;
		course.created = course.ends - words->type->run_time;
	}
	else
	{
		course.created = words->creation < 0 ? first : words->creation;
		course.ends = course.created + words->end;
	}
	course.begins = course.created + words->wait;
	return course;
}
