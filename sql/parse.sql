--
-- Reading an answer that is at hand: anyvod_parse and anyvod_files.  No
-- request leaves, but for the last section.
--
\t on
\pset format unaligned
\getenv simulator_port ANYVOD_SIMULATOR_PORT
\set base_url http://127.0.0.1: :simulator_port
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
CREATE EXTENSION IF NOT EXISTS anyvod;

-- what anyvod_parse gives: status, progress, file_url, expire_time, state,
-- error_code, error_message; a minus sign is null
CREATE FUNCTION pg_temp.tell(response jsonb) RETURNS text
BEGIN ATOMIC
	SELECT array_to_string(ARRAY[status, progress::text, file_url,
		expire_time::text, state::text, error_code, error_message], '|', '-')
	FROM anyvod_parse(response);
END;

-- an answer about an image, with this task object
CREATE FUNCTION pg_temp.image(task jsonb, status text DEFAULT 'FINISH') RETURNS jsonb
RETURN jsonb_build_object('Response', jsonb_build_object('TaskType', 'AigcImageTask',
	'Status', status, 'AigcImageTask', task));

-- one of a finished image, with these fields of its only file
CREATE FUNCTION pg_temp.file(file jsonb) RETURNS jsonb
RETURN pg_temp.image(jsonb_build_object('Output', jsonb_build_object('FileInfos', jsonb_build_array(file))));

--
-- Verdicts
--
SELECT body, pg_temp.tell(pg_temp.image(body, status))
FROM (VALUES
	-- running: WAITING, PROCESSING and any word that is not known, kept as it came
	('WAITING', 'null'::jsonb),
	('PROCESSING', '{"Progress": 42}'),
	('processing', '{"Progress": 42}'),
	('Dreaming', '{}'),
	('', '{"Status": "PROCESSING"}'),
	('PROCESSING', '{"ErrCode": 70000, "Message": "not yet ended"}'),
	('PROCESSING', '{"Output": {"FileInfos": [{"FileUrl": "http://f/not-yet"}]}}'),
	-- an outer FINISH around an inner PROCESSING
	('FINISH', '{"Status": "PROCESSING", "Progress": 99}'),
	('FINISH', '{"TaskStatus": "Processing"}'),
	-- succeeded: without an error code, whatever the message
	('FINISH', '{"Output": {"FileInfos": [{"FileUrl": "http://f/1"}]}}'),
	('finish', '{"Status": "FINISH", "ErrCode": 0, "ErrCodeExt": "", "Message": "SUCCESS", "Progress": 100,
		"Output": {"FileInfos": [{"FileUrl": "http://f/1", "ExpireTime": "2026-08-12T01:02:03Z"}]}}'),
	('FINISH', '{"ErrCode": "0", "ErrCodeExt": "0", "Output": {"FileInfos": [{"FileUrl": "http://f/1"}]}}'),
	('FINISH', '{"ErrCode": null, "ErrCodeExt": null, "Output": {"FileInfos": [{"FileUrl": "http://f/1"}]}}'),
	-- failed: ABORTED, or an error code; the extended one is the better
	('ABORTED', '{}'),
	('aborted', '{"ErrCodeExt": "OperationCanceled", "Message": "canceled"}'),
	('FINISH', '{"ErrCode": 70000, "Message": "no"}'),
	('FINISH', '{"ErrCode": "70000", "Message": "ok"}'),
	('FINISH', '{"ErrCode": -1}'),
	('FINISH', '{"ErrCode": 7e4}'),
	('FINISH', '{"ErrCode": 0, "ErrCodeExt": "InternalError", "Message": ""}'),
	('FINISH', '{"ErrCode": 70000, "ErrCodeExt": "ContentModerationFailed", "Message": "no"}'),
	('FINISH', '{"ErrCode": 40000, "Output": {"FileInfos": [{"FileUrl": "http://f/of-a-failure"}]}}'),
	('FINISH', '{"ErrCode": 40000, "Status": "PROCESSING"}'),
	-- no file although the type makes one
	('FINISH', '{}'),
	('FINISH', 'null'),
	('FINISH', '{"Output": {"FileInfos": []}}'),
	('FINISH', '{"Output": {"FileInfos": [{"FileUrl": ""}, {"FileUrl": null}, {"FileUrl": 1}, {}]}}'))
	v (status, body);

-- types that make no file succeed without one
SELECT pg_temp.tell(body::jsonb)
FROM (VALUES
	('{"Response": {"TaskType": "Procedure", "Status": "FINISH", "ProcedureTask": {"FileUrl": "http://f/the-source"}}}'),
	('{"Response": {"TaskType": "DescribeFileAttributes", "Status": "FINISH", "DescribeFileAttributesTask": {"Status": "SUCCESS"}}}'),
	('{"Response": {"TaskType": "WandAsrTask", "Status": "FINISH"}}')) v (body);

-- refused, under HTTP 200: no state, but the gateway's code and words
SELECT body, pg_temp.tell(body::jsonb)
FROM (VALUES
	('{"error": {"message": "无效的令牌", "type": "new_api_error", "code": ""}}'),
	('{"error": {"message": "bad", "type": "one_api_error"}}'),
	('{"error": {"message": "bad", "type": "new_api_error", "code": "access_denied"}}'),
	('{"error": {}}'),
	('{"error": "bad"}'),
	('{"code": "task_not_exist", "message": "task_not_exist", "data": null}'),
	('{"code": 500, "message": "bad"}'),
	('{"success": false, "message": "bad"}'),
	('{"Response": {"Error": {"Code": "RequestLimitExceeded", "Message": "slower"}, "RequestId": "r"}}'),
	('{"Response": {"Error": {"Code": "ResourceNotFound", "Message": ""}}}'),
	('{"Response": {"Error": {}}}'),
	-- a refusal counts, whatever stands beside it
	('{"error": {"code": "bad"}, "Response": {"TaskType": "AigcImageTask", "Status": "PROCESSING"}}'),
	-- these refuse nothing
	('{"error": null, "code": "success", "success": true, "Response": {"TaskType": "AigcImageTask", "Status": "PROCESSING"}}'),
	('{"error": "", "code": 200, "Response": {"TaskType": "AigcImageTask", "Status": "PROCESSING"}}'),
	('{"code": 0, "Response": {"Error": null, "TaskType": "AigcImageTask", "Status": "PROCESSING"}}')) v (body);

-- no answer about a task, or not one of this product: all null, no error
SELECT count(*) AS bodies, count(*) FILTER (WHERE NOT pg_temp.tell(body::jsonb) = '-|-|-|-|-|-|-') AS read
FROM unnest(ARRAY['{}', '[]', 'null', 'true', '0', '1', '-1e10', '"text"', '""', '[[]]', '[{}]',
	'[{"Response": {"TaskType": "AigcImageTask", "Status": "PROCESSING"}}]',
	'{"Response": null}', '{"Response": []}', '{"Response": {}}', '{"Response": "PROCESSING"}',
	'{"Response": {"TaskId": "1-AigcImageTask-2t", "RequestId": "r"}}',
	'{"Response": {"TaskType": "AigcImageTask", "AigcImageTask": {"Output": {}}}}',
	'{"Response": {"TaskType": 1, "Status": 2}}',
	'{"response": {"task_type": "AigcImageTask", "status": "PROCESSING"}}',
	'{"Response": {"Status": "FINISH", "Output": {"FileInfos": [{"FileUrl": "http://f/flat"}]}}}',
	'{"Response": {"Status": "DONE", "VideoUrls": ["http://f/mps"], "RequestId": "r"}}',
	'{"id": "v", "object": "video", "status": "completed", "progress": 100}',
	'{"data": null}', '{"data": {"Response": null}}']) body;
SELECT anyvod_parse(NULL) IS NULL AS strict,
	pg_temp.tell('{}') AS empty;

-- new-api's wrapper is taken off; with nothing in it, it speaks for itself
SELECT pg_temp.tell(body::jsonb)
FROM (VALUES
	('{"code": "success", "data": {"status": "SUCCESS", "result_url": "http://f/wrapper", "data": {"Response":
		{"TaskType": "AigcVideoTask", "Status": "FINISH", "AigcVideoTask": {"Output": {"FileInfos": [{"FileUrl": "http://f/inside"}]}}}}}}'),
	('{"data": {"Response": {"TaskType": "AigcVideoTask", "Status": "PROCESSING", "AigcVideoTask": {"Progress": 7}}}}'),
	('{"code": "success", "data": {"status": "IN_PROGRESS", "progress": "47%", "data": null}}'),
	('{"code": "success", "data": {"status": "FAILURE", "fail_reason": "bad", "result_url": "bad", "data": {}}}'),
	('{"data": {"status": "SUBMITTED", "data": {"Response": {"TaskId": "1-AigcVideoTask-2t", "RequestId": "r"}}}}'),
	('{"code": "success", "message": "", "data": null}')) v (body);

--
-- Which object is the task's
--
SELECT pg_temp.tell(body::jsonb)
FROM (VALUES
	-- the one that TaskType names, or names but for "Task"; the only one
	('{"Response": {"TaskType": "AigcImageTask", "Status": "PROCESSING", "AigcImageTask": {"Progress": 1}, "AigcVideoTask": {"Progress": 2}}}'),
	('{"Response": {"TaskType": "EditMedia", "Status": "PROCESSING", "EditMediaTask": {"Progress": 1}, "AigcVideoTask": {"Progress": 2}}}'),
	('{"Response": {"TaskType": "ImageSprite", "Status": "PROCESSING", "CreateImageSpriteTask": {"Progress": 3}, "AigcVideoTask": null}}'),
	('{"Response": {"Status": "PROCESSING", "AigcVideoTask": {"Progress": 4}}}'),
	-- its status, where the answer has none
	('{"Response": {"AigcVideoTask": {"Status": "PROCESSING", "Progress": 5}}}'),
	-- two, and none that is named
	('{"Response": {"TaskType": "Other", "Status": "PROCESSING", "AigcImageTask": {"Progress": 1}, "AigcVideoTask": {"Progress": 2}}}'),
	('{"Response": {"Status": "PROCESSING", "AigcImageTask": {"Progress": 1}, "AigcVideoTask": {"Progress": 2}}}')) v (body);

--
-- Which file is the result.  What the caller sent in is never taken.
--
SELECT pg_temp.tell(pg_temp.image(task::jsonb))
FROM (VALUES
	('{"Output": {"FileInfos": [{"FileUrl": "http://f/list"}], "FileUrl": "http://f/output"}, "FileUrl": "http://f/task"}'),
	('{"Output": {"AudioInfos": [{"FileUrl": "http://f/audio"}], "VideoInfos": [{"FileUrl": "http://f/video"}]}}'),
	('{"Output": {"AudioInfos": [], "VideoInfos": [{"FileUrl": "http://f/video"}]}}'),
	('{"Output": {"FileInfo": {"FileUrl": "http://f/one", "ExpireTime": "2026-08-12T00:00:00Z"}}}'),
	('{"Output": {"FileInfos": {"FileUrl": "http://f/object-for-array"}}}'),
	('{"Output": {"FileInfo": [{"FileUrl": "http://f/array-for-object"}]}}'),
	('{"Output": {"FileUrl": "http://f/output", "ExpireTime": "2026-08-12T00:00:00Z"}}'),
	('{"FileUrl": "http://f/task"}'),
	('{"Output": {"FileInfos": [{"FileUrl": "http://f/last", "UsageType": "last_frame_url"},
		{"FileUrl": "http://f/position", "UsageType": "position_info"}, {"FileUrl": ""},
		{"FileUrl": "http://f/scene", "UsageType": "scene_url", "ExpireTime": "2026-08-12T00:00:00Z"}]}}'),
	('{"Output": {"FileInfos": [{"FileUrl": "http://f/last", "UsageType": "last_frame_url"}]}}'),
	('{"Output": {"FileInfos": [null, 1, "http://f/text", [], {"FileUrl": "http://f/after-all"}]}}'),
	('{"Input": {"FileInfos": [{"Url": "http://f/in", "FileUrl": "http://f/in"}], "Prompt": "http://f/in"}, "Output": {}}'),
	('{"Input": {"Output": {"FileInfos": [{"FileUrl": "http://f/in"}]}}}'),
	('{"Output": {"FileInfos": [{"FileUrl": "http://f/line\nbreak"}]}}')) v (task);
SELECT length((anyvod_parse(pg_temp.file(jsonb_build_object('FileUrl', repeat('u', n))))).file_url)
FROM unnest(ARRAY[8192, 8193]) n;

--
-- Dates: what is none costs no file
--
SELECT date, (anyvod_parse(pg_temp.file(jsonb_build_object('FileUrl', 'u', 'ExpireTime', date)))).expire_time,
	(anyvod_parse(pg_temp.file(jsonb_build_object('FileUrl', 'u', 'ExpireTime', date)))).state
FROM unnest(ARRAY['"2026-08-12T01:02:03Z"', '"2026-08-12T01:02:03.456Z"', '"2026-08-12T01:02:03+08:00"',
	'"2024-02-29T00:00:00Z"', '"2026-02-29T00:00:00Z"', '"2026-13-01T00:00:00Z"', '"2026-08-12T24:00:00Z"',
	'"9999-12-31T23:59:59Z"', '"0000-00-00T00:00:00Z"', '"0001-01-01T00:00:00Z"', '"0001-01-02T00:00:00Z"',
	'"2026-08-12"', '"2026-08-12T01:02:03"', '"tomorrow"', '"infinity"', '""', '1786500000', 'null', '{}', '[]', 'true']::jsonb[]) date;

--
-- Progress
--
SELECT left(progress::text, 20), (anyvod_parse(pg_temp.image(jsonb_build_object('Progress', progress), 'PROCESSING'))).progress
FROM unnest(ARRAY['0', '47', '47.6', '99.999', '100', '4.7e1', '"47"', '"47%"', '"47 %"', '"47.6%"',
	'101', '100.1', '-1', '-0', '1e1000', '"nan"', '"0x10"', '""', '"%"', '"half"', 'null', 'true', '[47]', '{"a": 47}']::jsonb[]) progress;

--
-- Whatever comes: nothing is raised, and nothing grows without a limit
--
SELECT n, pg_temp.tell((repeat('[', n) || repeat(']', n))::jsonb)
FROM unnest(ARRAY[128, 129, 1000]) n;
SELECT n, (anyvod_parse(pg_temp.image(format('{"Progress": 1, "Input": %s1%s}',
	repeat('{"a":', n - 3), repeat('}', n - 3))::jsonb, 'PROCESSING'))).progress
FROM unnest(ARRAY[128, 129]) n;
SELECT length(error_code), length(error_message), right(error_message, 1)
FROM anyvod_parse(pg_temp.image(jsonb_build_object('ErrCode', ('1' || repeat('0', 100000))::numeric,
	'Message', repeat('信', 2001))));
SELECT length(status), state
FROM anyvod_parse(pg_temp.image('{}', repeat('S', 100000)));
SELECT to_json(error_code), to_json(error_message)
FROM anyvod_parse('{"code": "  two\nlines\t", "message": "two\nlines\u001b[31m\u0085"}');
SELECT state, file_url FROM anyvod_parse(pg_temp.image(jsonb_build_object(
	'Input', jsonb_build_object('Prompt', repeat('x', 3000000)),
	'Output', '{"FileInfos": [{"FileUrl": "http://f/beside-3-MB"}]}'::jsonb)));

--
-- anyvod_files: every entry that has a URL, in the order of the places
--
SELECT * FROM anyvod_files(pg_temp.image('{"Output": {
	"FileInfo": {"FileUrl": "http://f/4"},
	"FileUrl": "http://f/5", "FileId": "five", "MediaName": "output", "FileType": "mp4", "ExpireTime": "0000-00-00T00:00:00Z",
	"VideoInfos": [{"FileUrl": "http://f/3", "UsageType": "last_frame_url"}],
	"FileInfos": [{"FileUrl": "http://f/1", "FileId": "one", "MediaName": "first", "FileType": "png",
			"StorageMode": "Permanent", "ExpireTime": "9999-12-31T23:59:59Z"},
		{"FileUrl": ""}, {"FileUrl": "http://f/2", "FileId": "", "MediaName": "", "FileType": "", "StorageMode": "Temporary",
			"ExpireTime": "2026-08-12T01:02:03Z"}]},
	"FileUrl": "http://f/6"}'));
-- of a running task and of a failed one, too
SELECT ordinal, file_url FROM anyvod_files(pg_temp.image('{"Output": {"FileInfos": [{"FileUrl": "http://f/early"}]}}', 'PROCESSING'));
SELECT ordinal, file_url FROM anyvod_files(pg_temp.image('{"ErrCode": 1, "Output": {"FileInfos": [{"FileUrl": "http://f/rest"}]}}'));
-- none, and no error, where there is nothing to list
SELECT count(*) FROM unnest(ARRAY['{}', '[]', 'null', '1', '{"Response": {"Error": {"Code": "x"}}}',
	'{"Response": {"TaskType": "AigcImageTask", "Status": "FINISH", "AigcImageTask": null}}']::jsonb[]) body,
	LATERAL anyvod_files(body);
SELECT count(*) FROM anyvod_files(NULL);
-- joined to the rows of a table; a list has at most 1,000 entries
SELECT n, f.ordinal, f.file_url
FROM (VALUES (1, pg_temp.file('{"FileUrl": "http://f/a"}')), (2, '{}'),
	(3, pg_temp.image('{"Output": {"FileInfos": [{"FileUrl": "http://f/b"}, {"FileUrl": "http://f/c"}]}}'))) v (n, body)
	LEFT JOIN LATERAL anyvod_files(body) f ON true
ORDER BY n, ordinal;
SELECT count(*), max(ordinal) FROM anyvod_files(pg_temp.image(jsonb_build_object('Output', jsonb_build_object('FileInfos',
	(SELECT jsonb_agg('{"FileUrl": "u"}'::jsonb) FROM generate_series(1, 1001))))));

--
-- IMMUTABLE: in an index, and in a generated column
--
CREATE TABLE regress_parse (
	n integer PRIMARY KEY,
	response jsonb,
	state anyvod_state GENERATED ALWAYS AS ((anyvod_parse(response)).state) STORED);
CREATE INDEX regress_parse_code ON regress_parse (((anyvod_parse(response)).error_code));
INSERT INTO regress_parse (n, response) VALUES
	(1, pg_temp.file('{"FileUrl": "u"}')), (2, pg_temp.image('{"ErrCodeExt": "TaskTimeout"}')),
	(3, pg_temp.image('{}', 'PROCESSING')), (4, '{}'), (5, NULL);
SELECT n, state FROM regress_parse ORDER BY n;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT n FROM regress_parse WHERE (anyvod_parse(response)).error_code = 'TaskTimeout';
SELECT n FROM regress_parse WHERE (anyvod_parse(response)).error_code = 'TaskTimeout';
RESET enable_seqscan;
RESET enable_bitmapscan;
DROP TABLE regress_parse;

--
-- Databases of other encodings: an answer is converted; a character that the
-- encoding lacks becomes a question mark, and nothing is raised
--
CREATE DATABASE regress_parse_latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_parse_latin1
\encoding UTF8
SET client_min_messages = warning;
CREATE EXTENSION anyvod;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
SELECT (anyvod_status('uni-fail-latin1')).error_message;
SELECT anyvod_query('uni-latin1') #>> '{Response,AigcImageTask,Input,Prompt}',
	(anyvod_status('uni-latin1')).state;
SELECT anyvod_query('badutf8-latin1') #>> '{Response,AigcImageTask,Input,Prompt}';
DO $$
DECLARE
	detail text;
BEGIN
	PERFORM anyvod_query('http401-latin1');
EXCEPTION WHEN invalid_authorization_specification THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE WARNING '%', regexp_replace(detail, 'id: \w+', 'id: ID');
END $$;
SELECT error_code, error_message FROM anyvod_parse('{"code": "Prüfung", "message": "naïve"}');
SELECT file_url FROM anyvod_files('{"Response": {"TaskType": "EditMedia", "Status": "FINISH",
	"EditMediaTask": {"Output": {"FileUrl": "http://f/été"}}}}');
-- what PostgreSQL itself says of a row is in the database's encoding already
CREATE SERVER "schön" FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
INSERT INTO anyvod_tasks (task_id, server) VALUES ('uni-fail-tracked', 'schön'), ('image-tracked', 'naïve');
DO $$
DECLARE
	deadline timestamptz := clock_timestamp() + '60 s';
BEGIN
	WHILE EXISTS (SELECT FROM anyvod_tasks WHERE error_code IS NULL) LOOP
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'rows have not been written';
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT task_id, server, state, error_code, error_message FROM anyvod_tasks ORDER BY task_id;

CREATE DATABASE regress_parse_euc_cn TEMPLATE template0 ENCODING 'EUC_CN' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_parse_euc_cn
\encoding UTF8
SET client_min_messages = warning;
CREATE EXTENSION anyvod;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
SELECT (anyvod_status('uni-fail-euc')).error_message;
SELECT anyvod_query('uni-euc') #>> '{Response,AigcImageTask,Input,Prompt}';
SELECT anyvod_query('surrogate-euc') #>> '{Response,AigcImageTask,Input,Prompt}';
SELECT error_code, error_message FROM anyvod_parse('{"code": "中文", "message": "任务失败"}');
-- a character of the encoding that Unicode lacks (row 2, cell 1 of GB 2312)
SELECT error_code, octet_length(error_message) > 0 AS has_message
FROM anyvod_parse(convert_from('\x7b22636f6465223a2265222c226d657373616765223a2261a2a162227d', 'EUC_CN')::jsonb);

CREATE DATABASE regress_parse_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_parse_ascii
\encoding UTF8
SET client_min_messages = warning;
CREATE EXTENSION anyvod;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
SELECT (anyvod_status('uni-fail-ascii')).error_message;
SELECT anyvod_query('uni-ascii') #>> '{Response,AigcImageTask,Input,Prompt}';
SELECT anyvod_query('badutf8-ascii') #>> '{Response,AigcImageTask,Input,Prompt}';
SELECT error_code, error_message FROM anyvod_parse('{"code": "Prüfung", "message": "任务失败"}');
-- text that is not UTF-8, which such a database may hold
SELECT error_code, error_message
FROM anyvod_parse(convert_from('\x7b22636f6465223a2265222c226d657373616765223a2261a2a162227d', 'SQL_ASCII')::jsonb);

\c regression_anyvod
DROP DATABASE regress_parse_latin1 WITH (FORCE);
DROP DATABASE regress_parse_euc_cn WITH (FORCE);
DROP DATABASE regress_parse_ascii WITH (FORCE);
