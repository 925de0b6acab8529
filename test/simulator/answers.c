/*
 * answers.c
 *		The bodies that tell of a task.
 *
 * Here lives every body the gateway can send.  How a body travels, or fails
 * to, is the business of simulator.c; what a task does is that of words.c.
 *
 * A task's answer comes in two shapes.  The gateway's drops zero, empty and
 * null values; Tencent's own ("full") has them all.  Both are written by the
 * same code, see json.c.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "simulator.h"

/* Every task key of DescribeTaskDetail; a full answer has them all. */
static const char *const all_keys[] = {
	"AigcAudioTask",
	"AigcHunyuan3DTask",
	"AigcImageTask",
	"AigcVideoRedrawTask",
	"AigcVideoTask",
	"ClipTask",
	"ComplexAdaptiveDynamicStreamingTask",
	"ComposeMediaTask",
	"ConcatTask",
	"CreateAigcAdvancedCustomElementTask",
	"CreateAigcAudioCloneTask",
	"CreateAigcCustomVoiceTask",
	"CreateAigcMaterialTask",
	"CreateAigcSubjectTask",
	"CreateImageSpriteTask",
	"DescribeAigcFaceInfoAsyncTask",
	"DescribeFileAttributesTask",
	"EditMediaTask",
	"ExtractBlindWatermarkTask",
	"ExtractCopyRightWatermarkTask",
	"ExtractTraceWatermarkTask",
	"FastClipMediaTask",
	"ImportMediaKnowledge",
	"ProcedureTask",
	"ProcessImageAsyncTask",
	"ProcessMediaByMPSTask",
	"PullUploadTask",
	"QualityEnhanceTask",
	"QualityInspectTask",
	"RebuildMediaTask",
	"ReduceMediaBitrateTask",
	"RemoveWatermarkTask",
	"ReviewAudioVideoTask",
	"SceneAigcImageTask",
	"SceneAigcVideoTask",
	"SnapshotByTimeOffsetTask",
	"SplitMediaTask",
	"TranscodeTask",
	"WechatMiniProgramPublishTask",
	"WechatPublishTask",
};

/* ---------- ids and dates ---------- */

static const char *file_base = "";
static uint64_t random_state;

/* Where the file URLs and redirects point to; "seed" makes ids fresh. */
void
answers_start(const char *base_url, uint64_t seed)
{
	file_base = base_url;
	random_state = seed;
}

/* splitmix64, with the constants its author published */
static uint64_t
mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t
random_bits(void)
{
	return mix(random_state++);
}

static void
write_hex(char *target, uint64_t bits, int digits)
{
	for (int i = digits - 1; i >= 0; i--, bits >>= 4)
		target[i] = "0123456789abcdef"[bits & 15];
}

/* Tencent's request ids are UUIDs of version 4. */
static void
uuid_make(char uuid[37])
{
	uint64_t	high = random_bits();
	uint64_t	low = random_bits();

	memset(uuid, '-', 36);
	write_hex(uuid, high >> 32, 8);
	write_hex(uuid + 9, high >> 16, 4);
	write_hex(uuid + 14, high, 4);
	uuid[14] = '4';
	write_hex(uuid + 19, low >> 48, 4);
	uuid[19] = "89ab"[(low >> 62) & 3];
	write_hex(uuid + 24, low, 12);
	uuid[36] = '\0';
}

/* The gateway's: date, time and nanoseconds in digits, then letters */
void
request_id_make(char *id, int64_t now)
{
	static const char letters[] =
		"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	time_t		seconds = now / 1000;
	uint64_t	bits = random_bits();
	struct tm	tm;
	size_t		length;

	gmtime_r(&seconds, &tm);
	length = strftime(id, REQUEST_ID_SIZE, "%Y%m%d%H%M%S", &tm);
	for (int i = 0; i < 9; i++, bits /= 10)
		id[length++] = '0' + bits % 10;
	bits = random_bits();
	for (int i = 0; i < 10; i++, bits /= 62)
		id[length++] = letters[bits % 62];
	id[length] = '\0';
}

/* YYYY-MM-DDTHH:MM:SSZ */
static void
date_make(char date[DATE_SIZE], int64_t when)
{
	time_t		seconds = when / 1000;
	struct tm	tm;

	gmtime_r(&seconds, &tm);
	strftime(date, DATE_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static void
write_date(Json *json, const char *key, int64_t when)
{
	char		date[DATE_SIZE];

	date_make(date, when);
	json_text(json, key, date);
}

#define DATE_UNSET "0000-00-00T00:00:00Z"
#define DATE_NOT_YET "0001-01-01T00:00:00Z"
#define DATE_NEVER "9999-12-31T23:59:59Z"

/* ---------- a task ---------- */

/* All that the parts of a task's answer are written from */
typedef struct Telling
{
	const char *id;
	const Words *words;
	Course		course;
	bool		waiting;
	bool		ended;
	bool		failed;
	int64_t		files;			/* how many to show */
	int64_t		progress;
	int64_t		code;
	const char *code_ext;
	const char *message;
	Answer	   *answer;
	Json	   *json;
} Telling;

/* Temporary files live 7 days, and a few seconds more in every capture. */
#define FILE_LIFE (INT64_C(7) * 86400 * 1000 + 12000)

/* FNV-1a, its bits mixed once more */
static uint64_t
hash_id(const char *id)
{
	uint64_t	hash = UINT64_C(0xcbf29ce484222325);

	for (; *id != '\0'; id++)
		hash = (hash ^ (unsigned char) *id) * UINT64_C(0x100000001b3);
	return mix(hash);
}

static void
file_url(const Telling *telling, int64_t number, const char *extension,
		 char *url, size_t size)
{
	char		hash[17];
	char		suffix[8] = "";

	write_hex(hash, hash_id(telling->id), 16);
	hash[16] = '\0';
	if (number > 0)
		snprintf(suffix, sizeof(suffix), "_%d", (int) (number % 100) + 1);
	snprintf(url, size, "%s/files/%s%s.%s", file_base, hash, suffix, extension);
}

/* As a live capture has it, in short */
static void
write_meta_data(const Telling *telling)
{
	Json	   *json = telling->json;

	if (telling->words->type->extension[0] == 'p')
	{
		json_null(json, "MetaData");
		return;
	}
	json_open(json, "MetaData", '{');
	json_text(json, "Container", "mov,mp4,m4a,3gp,3g2,mj2");
	json_real(json, "Duration", "5.042");
	json_number(json, "Height", 720);
	json_number(json, "Rotate", 0);
	json_number(json, "Size", 4778578);
	json_number(json, "Width", 1280);
	json_close(json);
}

/* What an entry of FileInfos holds, without its braces */
static void
write_file_fields(const Telling *telling, int64_t number)
{
	const Words *words = telling->words;
	const char *extension = words->type->extension;
	Json	   *json = telling->json;
	bool		permanent = words->permanent;
	char		url[256];

	file_url(telling, number, extension, url, sizeof(url));
	json_number(json, "ClassId", 0);
	if (permanent)
		json_text(json, "ExpireTime", DATE_NEVER);
	else
		write_date(json, "ExpireTime", telling->course.ends + FILE_LIFE);
	json_text(json, "FileType", permanent ? extension : "");
	json_text(json, "FileUrl", url);
	if (words->type->output == OUTPUT_MODELS)
	{
		file_url(telling, number, "png", url, sizeof(url));
		json_text(json, "PreviewFileUrl", url);
		json_text(json, "StorageMode", permanent ? "Permanent" : "Temporary");
		return;
	}
	json_text(json, "FileId", permanent ? "5145403722136444988" : "");
	json_text(json, "MediaName", permanent ? "demo" : "");
	if (words->type->output == OUTPUT_FLAT)
		return;
	write_meta_data(telling);
	json_text(json, "StorageMode", permanent ? "Permanent" : "Temporary");
	if (words->type->output == OUTPUT_FILE_INFOS)
	{
		json_text(json, "FileContent", "");
		json_text(json, "UsageType", "");
	}
}

static void
write_file_array(const Telling *telling, const char *key)
{
	json_open(telling->json, key, '[');
	for (int64_t i = 0; i < telling->files; i++)
	{
		json_open(telling->json, NULL, '{');
		write_file_fields(telling, i);
		json_close(telling->json);
	}
	json_close(telling->json);
}

/* The results of a Procedure's sub-tasks; FileUrl is its source. */
static void
write_procedure(const Telling *telling)
{
	Json	   *json = telling->json;

	json_text(json, "FileId", "5285890784246869930");
	json_text(json, "FileName", "source");
	json_text(json, "FileUrl", "http://example.com/source.mp4");
	json_open(json, "MediaProcessResultSet", '[');
	if (telling->ended)
	{
		json_open(json, NULL, '{');
		json_text(json, "Type", "Transcode");
		json_open(json, "TranscodeTask", '{');
		json_text(json, "Status", telling->failed ? "FAIL" : "SUCCESS");
		json_text(json, "ErrCodeExt", telling->code_ext);
		json_number(json, "ErrCode", telling->code);
		json_text(json, "Message", telling->message);
		json_number(json, "Progress", 100);
		json_open(json, "Output", '{');
		if (telling->files > 0)
		{
			char		url[256];

			file_url(telling, 0, "mp4", url, sizeof(url));
			json_text(json, "Url", url);
		}
		json_close(json);
		json_close(json);
		json_close(json);
	}
	json_close(json);
}

static void
write_output(const Telling *telling)
{
	Json	   *json = telling->json;
	const TaskType *type = telling->words->type;

	json_open(json, "Output", '{');
	switch (type->output)
	{
		case OUTPUT_FILE_INFOS:
		case OUTPUT_MODELS:
			write_file_array(telling, "FileInfos");
			break;
		case OUTPUT_AUDIO:
			write_file_array(telling, "AudioInfos");
			json_open(json, "VideoInfos", '[');
			json_close(json);
			break;
		case OUTPUT_FILE_INFO:
			if (telling->files == 0)
			{
				json_null(json, "FileInfo");
				break;
			}
			json_open(json, "FileInfo", '{');
			write_file_fields(telling, 0);
			json_close(json);
			break;
		case OUTPUT_FLAT:
			if (telling->files > 0)
				write_file_fields(telling, 0);
			break;
		case OUTPUT_PROCEDURE:
			break;
	}
	if (type == &task_types[TYPE_VIDEO])
	{
		json_open(json, "ProcedureTaskIds", '[');
		json_close(json);
		json_open(json, "Usage", '{');
		json_number(json, "InputTokens", 0);
		json_number(json, "ThoughtTokens", 0);
		json_close(json);
	}
	if (type == &task_types[TYPE_PROCESS_IMAGE] && telling->ended &&
		!telling->failed)
		json_text(json, "OutputText", "a pig on grass");
	json_close(json);
}

/* The caller's prompt, with whatever a parser may stumble over */
static void
write_prompt(const Telling *telling)
{
	const Words *words = telling->words;
	char		prompt[128];

	snprintf(prompt, sizeof(prompt), "%s%s%s%s",
			 words->uni ? "夏日海滩，海浪轻拍礁石" : "pig",
			 words->nul ? "\\u0000pig" : "",
			 words->badutf8 ? "\xff\xfe\xc3(" : "",
			 words->surrogate ? "\\ud83d" : "");
	json_escaped(telling->json, "Prompt", prompt);
}

/*
 * What the caller asked for, echoed: it may be as large as he likes (the
 * padding of hugeBYTES goes where pad_at says) and as deep.
 */
static void
write_input(const Telling *telling)
{
	const Words *words = telling->words;
	Json	   *json = telling->json;

	json_open(json, "Input", '{');
	json_text(json, "ModelName", words->model);
	json_text(json, "ModelVersion", words->version);
	json_open(json, "FileInfos", '[');
	if (words->trouble.huge > 0)
	{
		json_open(json, NULL, '{');
		json_text(json, "Type", "Base64");
		json_escaped(json, "Base64", "iVBORw0KGgoA");
		telling->answer->pad_at = json->length - 1;
		json_close(json);
	}
	json_close(json);
	if (words->trouble.deep > json->depth)
	{
		size_t		levels = words->trouble.deep - json->depth;

		json_key(json, "ExtInfo");
		json_fill(json, '[', levels);
		json_fill(json, ']', levels);
	}
	write_prompt(telling);
	json_text(json, "NegativePrompt", "blur, distorted");
	json_text(json, "EnhancePrompt", "Enabled");
	json_text(json, "GenerationMode", "");
	json_open(json, "OutputConfig", '{');
	json_text(json, "AspectRatio", "");
	json_number(json, "ClassId", 0);
	if (words->full)
		json_text(json, "ExpireTime", DATE_UNSET);
	json_text(json, "MediaName", "");
	json_text(json, "Resolution", "");
	json_text(json, "StorageMode",
			  words->permanent ? "Permanent" : "Temporary");
	json_close(json);
	json_close(json);
}

static void
write_task(const Telling *telling)
{
	const TaskType *type = telling->words->type;
	Json	   *json = telling->json;

	json_open(json, type->key, '{');
	json_number(json, "ErrCode", telling->code);
	if (type->has_code_ext)
		json_text(json, "ErrCodeExt", telling->code_ext);
	json_text(json, "Message", telling->message);
	write_input(telling);
	if (type->output == OUTPUT_PROCEDURE)
		write_procedure(telling);
	else
	{
		write_output(telling);
		json_number(json, "Progress", telling->progress);
	}
	if (type->has_session)
	{
		json_text(json, "SessionContext", "");
		json_text(json, "SessionId", "");
	}
	json_text(json, "Status", telling->ended ? "FINISH" : "PROCESSING");
	json_text(json, "TaskId", telling->id);
	json_close(json);
}

/* The task object among the others, which are null or absent */
static void
write_all_tasks(const Telling *telling)
{
	for (size_t i = 0; i < LENGTH_OF(all_keys); i++)
	{
		if (!telling->waiting &&
			strcmp(all_keys[i], telling->words->type->key) == 0)
			write_task(telling);
		else
			json_null(telling->json, all_keys[i]);
	}
}

static const char *
outer_status(const Telling *telling)
{
	if (telling->ended)
		return telling->words->abort ? "ABORTED" : "FINISH";
	return telling->waiting ? "WAITING" : "PROCESSING";
}

/* {"Response":{...}}, as the value of "key" if that is not NULL */
static void
write_response(const Telling *telling, const char *key)
{
	const Words *words = telling->words;
	Json	   *json = telling->json;
	char		uuid[37];

	uuid_make(uuid);
	json->trim = !words->full;
	json_open(json, key, '{');
	json_open(json, "Response", '{');
	json_text(json, "Status", outer_status(telling));
	json_text(json, "TaskType", words->type->name);
	json_text(json, "RequestId", uuid);
	write_date(json, "CreateTime", telling->course.created);
	if (!telling->waiting)
		write_date(json, "BeginProcessTime", telling->course.begins);
	else if (words->full)
		json_text(json, "BeginProcessTime", DATE_NOT_YET);
	if (telling->ended)
		write_date(json, "FinishTime", telling->course.ends);
	else if (words->full)
		json_text(json, "FinishTime", DATE_NOT_YET);
	if (words->full)
		write_all_tasks(telling);
	else if (!telling->waiting)
		write_task(telling);
	json_close(json);
	json_close(json);
	json->trim = false;
}

/* new-api's own word for it */
static const char *
wrapped_status(const Telling *telling)
{
	if (telling->failed)
		return "FAILURE";
	if (telling->ended)
		return "SUCCESS";
	return telling->waiting ? "QUEUED" : "IN_PROGRESS";
}

/* The task as stock new-api wraps it; on failure result_url is the error. */
static void
write_wrapped(const Telling *telling)
{
	Json	   *json = telling->json;
	char		text[256];

	json_open(json, NULL, '{');
	json_text(json, "code", "success");
	json_text(json, "message", "");
	json_open(json, "data", '{');
	json_number(json, "id", 102);
	json_text(json, "task_id", telling->id);
	json_text(json, "platform", "58");
	json_text(json, "action", "generate");
	json_text(json, "status", wrapped_status(telling));
	json_text(json, "fail_reason", telling->failed ? telling->message : "");
	if (telling->failed)
		json_text(json, "result_url", telling->message);
	else if (telling->files > 0)
	{
		file_url(telling, 0, telling->words->type->extension, text,
				 sizeof(text));
		json_text(json, "result_url", text);
	}
	json_number(json, "submit_time", telling->course.created / 1000);
	json_number(json, "start_time",
				telling->waiting ? 0 : telling->course.begins / 1000);
	json_number(json, "finish_time",
				telling->ended ? telling->course.ends / 1000 : 0);
	snprintf(text, sizeof(text), "%d%%", (int) telling->progress);
	json_text(json, "progress", text);
	json_open(json, "properties", '{');
	json_close(json);
	write_response(telling, "data");
	json_close(json);
	json_close(json);
}

static int64_t
task_progress(const Words *words, const Course *course, int64_t now)
{
	int64_t		progress;

	if (words->jump >= 0)
		return words->jump;
	if (!words->progress || now <= course->begins)
		return 0;
	progress = (now - course->begins) * 100 / (course->ends - course->begins);
	return progress > 99 ? 99 : progress;
}

/* As a live capture has it, except when canceled */
static const char *
failure_message(const Words *words)
{
	if (words->uni)
		return "任务失败：输入内容不符合规范";
	if (words->abort)
		return "task was canceled";
	return "task failed with status: FAIL, message: create gen_video task "
		   "failed. ret:2013,msg:invalid request";
}

/* What there is to tell at "now" about a task first asked for at "first" */
static Telling
telling_make(const char *id, const Words *words, int64_t first, int64_t now,
			 Answer *answer)
{
	Telling		telling = {.id = id, .words = words, .answer = answer};

	telling.json = &answer->body;
	telling.course = task_course(words, first);
	telling.ended = now >= telling.course.ends;
	telling.waiting = !telling.ended && now < telling.course.begins;
	telling.failed = telling.ended && words->failed;
	telling.message = "";
	telling.code_ext = "";
	if (telling.failed)
	{
		telling.code = words->code;
		telling.code_ext = words->code_ext;
		telling.message = failure_message(words);
	}
	else if (telling.ended)
	{
		telling.message = words->uni ? "成功" : "";
		telling.files = words->trouble.nofile ? 0 : words->files;
	}
	telling.progress =
		telling.ended ? 100 : task_progress(words, &telling.course, now);
	return telling;
}

/* ---------- refusals ---------- */

/* {"error":{...}}; "code" NULL leaves that key out. */
static void
write_error(Json *json, const char *message, const char *type, const char *code,
			const char *request_id)
{
	char		text[512];

	if (request_id != NULL)
		snprintf(text, sizeof(text), "%s (request id: %s)", message,
				 request_id);
	else
		snprintf(text, sizeof(text), "%s", message);
	json_open(json, NULL, '{');
	json_open(json, "error", '{');
	json_text(json, "message", text);
	json_text(json, "type", type);
	if (code != NULL)
		json_text(json, "code", code);
	json_close(json);
	json_close(json);
}

/* {"code","message","data":null}, the gateway's way with tasks */
static void
write_task_error(Json *json, const char *code, const char *message)
{
	json_open(json, NULL, '{');
	json_text(json, "code", code);
	json_text(json, "message", message);
	json_null(json, "data");
	json_close(json);
}

static void
write_rate_limit(Json *json, const char *request_id)
{
	write_error(json,
				"您已达到总请求数限制：1分钟内最多请求60次，"
				"包括失败次数，请检查您的请求是否正确",
				"new_api_error", "", request_id);
}

/* The stock page of nginx */
static void
write_nginx_page(Answer *answer, const char *title)
{
	char		page[512];

	snprintf(page, sizeof(page),
			 "<html>\r\n<head><title>%s</title></head>\r\n<body>\r\n"
			 "<center><h1>%s</h1></center>\r\n<hr><center>nginx</center>\r\n"
			 "</body>\r\n</html>\r\n",
			 title, title);
	json_literal(&answer->body, page);
	answer->content_type = "text/html";
	answer->server = "nginx";
}

static void
write_cloudflare_line(Answer *answer)
{
	char		line[32];

	snprintf(line, sizeof(line), "error code: %u", answer->status);
	json_literal(&answer->body, line);
	answer->content_type = "text/plain; charset=UTF-8";
	answer->server = "cloudflare";
}

/* Refusals nobody in particular is known for */
static void
write_other_refusal(Answer *answer, const char *request_id)
{
	unsigned int status = answer->status;
	char		title[64];

	if (status < 300 || status == 304)
		return;
	if (status >= 520)
		write_cloudflare_line(answer);
	else if (status >= 400 && status < 500)
		write_error(&answer->body, "bad request", "new_api_error", "",
					request_id);
	else
	{
		snprintf(title, sizeof(title), "%u %s", status,
				 status < 400 ? "Moved" : "Server Error");
		write_nginx_page(answer, title);
		answer->location = status < 400;
	}
}

/* The body with which the gateway, or what is before it, sends "status" */
void
answer_refusal(unsigned int status, const char *path, const char *request_id,
			   Answer *answer)
{
	Json	   *json = &answer->body;
	char		text[400];

	answer->status = status;
	answer->content_type = CONTENT_JSON;
	switch (status)
	{
		case 301:
			write_nginx_page(answer, "301 Moved Permanently");
			answer->location = true;
			break;
		case 302:
			write_nginx_page(answer, "302 Found");
			answer->location = true;
			break;
		case 401:
			write_error(json, "无效的令牌", "new_api_error", "", request_id);
			break;
		case 403:
			write_error(json, "用户已被封禁", "new_api_error", "", request_id);
			break;
		case 404:
			snprintf(text, sizeof(text), "Invalid URL (GET %s)", path);
			write_error(json, text, "invalid_request_error", "", NULL);
			break;
		case 429:
			write_rate_limit(json, request_id);
			break;
		case 500:
			write_task_error(json, "get_task_failed", "database is locked");
			break;
		case 502:
			write_nginx_page(answer, "502 Bad Gateway");
			break;
		case 503:
			write_error(json,
						"分组 default 下模型 aigc-video "
						"无可用渠道（distributor）",
						"new_api_error", "model_not_found", request_id);
			break;
		case 504:
			write_nginx_page(answer, "504 Gateway Time-out");
			break;
		default:
			write_other_refusal(answer, request_id);
			break;
	}
}

/* The web application's first page, which any unknown path gets */
void
answer_index(Answer *answer)
{
	answer->status = 200;
	answer->content_type = CONTENT_HTML;
	json_literal(
		&answer->body,
		"<!doctype html>\n<html lang=\"zh\">\n  <head>\n"
		"    <meta charset=\"utf-8\" />\n    <title>New API</title>\n"
		"    <script type=\"module\" crossorigin "
		"src=\"/assets/index-Ab12Cd34.js\"></script>\n  </head>\n  <body>\n"
		"    <noscript>You need to enable JavaScript to run this app."
		"</noscript>\n    <div id=\"root\"></div>\n  </body>\n</html>\n");
}

/* Response.Error, which Tencent sends under 200 */
static void
write_response_error(Json *json, const char *code)
{
	char		uuid[37];

	uuid_make(uuid);
	json_open(json, NULL, '{');
	json_open(json, "Response", '{');
	json_open(json, "Error", '{');
	json_text(json, "Code", code);
	json_text(json, "Message", code);
	json_close(json);
	json_text(json, "RequestId", uuid);
	json_close(json);
	json_close(json);
}

/* ---------- the answer to a question about a task ---------- */

/* Writes what stands instead of the task, if anything does. */
static bool
answer_instead(const char *id, const Trouble *trouble, const char *request_id,
			   Answer *answer)
{
	unsigned int http = (unsigned int) trouble->http;
	Json	   *json = &answer->body;
	char		path[320];

	answer->status = http != 0 ? http : 200;
	if (trouble->html)
	{
		answer_index(answer);
		answer->status = http != 0 ? http : 200;
	}
	else if (trouble->empty)
		answer->content_type = CONTENT_PLAIN;
	else if (trouble->notjson)
	{
		json_literal(json, "no json");
		answer->content_type = CONTENT_PLAIN;
	}
	else if (trouble->oneapi)
		write_error(json, "无效的 token", "one_api_error", NULL, NULL);
	else if (trouble->unknown)
	{
		answer->status = http != 0 ? http : 400;
		write_task_error(json, "task_not_exist", "task_not_exist");
	}
	else if (trouble->code[0] != '\0')
		write_response_error(json, trouble->code);
	else if (http != 0 && http != 200)
	{
		snprintf(path, sizeof(path), "/tencent-vod/v1/query/%s", id);
		answer_refusal(http, path, request_id, answer);
	}
	else
		return false;
	return true;
}

/*
 * The answer to a question about "id" at "now", if the first one came at
 * "first".  The trouble among the words must still hold, see
 * words_end_trouble.  "answer" is zeroed by the caller, who frees its body.
 */
void
answer_task(const char *id, const Words *words, int64_t first, int64_t now,
			const char *request_id, Answer *answer)
{
	const Trouble *trouble = &words->trouble;
	Telling		telling;

	answer->content_type = CONTENT_JSON;
	if (answer_instead(id, trouble, request_id, answer))
		return;

	telling = telling_make(id, words, first, now, answer);
	if (trouble->double429)
	{
		answer->status = 429;
		write_rate_limit(&answer->body, request_id);
	}
	for (int i = 0; i < (trouble->two ? 2 : 1); i++)
	{
		if (i > 0)
			json_literal(&answer->body, "\n");
		if (words->wrap)
			write_wrapped(&telling);
		else
			write_response(&telling, NULL);
	}
	if (answer->pad_at > 0 && (uint64_t) trouble->huge > answer->body.length)
		answer->pad = (uint64_t) trouble->huge - answer->body.length;
}
