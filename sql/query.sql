--
-- Asking now: what anyvod_query and anyvod_status give, and each error that
-- they raise.  The gateway is the simulator, whose task ids say what it does.
--
\t on
\pset format unaligned
\set SHOW_CONTEXT never
\getenv simulator_port ANYVOD_SIMULATOR_PORT
\set base_url http://127.0.0.1: :simulator_port
\set base_url_tls https://127.0.0.1: :simulator_port
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS anyvod;

CREATE ROLE regress_query_user;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_query_user;

CREATE SCHEMA regress_query;
GRANT USAGE ON SCHEMA regress_query TO regress_query_user;

\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.psql'
\i :helpers

-- what other tests have asked is not counted here
SELECT regress_helpers.reset() AS reset;

-- texts without what differs from run to run, and without libcurl's words
CREATE FUNCTION regress_query.mask(text) RETURNS text
RETURN regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace($1,
	'127\.0\.0\.1:\d+', '127.0.0.1:PORT', 'g'),
	'\m[0-9]{23}[0-9A-Za-z]{10}\M', 'ID', 'g'),
	'\m[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\M', 'UUID', 'g'),
	'\m(\d+ ms|byte \d+)\M', 'N', 'g'),
	'^(The host name could|The connection could|TLS could|The response did)([[:alpha:] ]+: ).+\.$',
	'\1\2WORDS OF LIBCURL.');

-- what a command raises
CREATE FUNCTION regress_query.trouble(command text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	message text; detail text; hint text;
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat(SQLSTATE, ' ', regress_query.mask(message),
				  E'\n  DETAIL ' || nullif(regress_query.mask(detail), ''),
				  E'\n  HINT ' || nullif(hint, ''));
END $$;

-- what a question raises, which both functions do alike
CREATE FUNCTION regress_query.ask(task_id text, server name DEFAULT 'anyapi')
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	query text := regress_query.trouble(
		format('SELECT anyvod_query(%L, %L)', task_id, server));
	status text := regress_query.trouble(
		format('SELECT anyvod_status(%L, %L)', task_id, server));
BEGIN
	RETURN CASE query WHEN status THEN query
		ELSE concat('query: ', query, E'\nstatus: ', status) END;
END $$;

-- what anyvod_status says of tasks, in a line each
CREATE FUNCTION regress_query.tell(VARIADIC task_ids text[]) RETURNS SETOF text
BEGIN ATOMIC
	SELECT array_to_string(ARRAY[id, s.status, s.progress::text,
		regress_query.mask(s.file_url),
		CASE WHEN s.expire_time = 'infinity' THEN 'never'
			WHEN s.expire_time BETWEEN now() + '6 days' AND now() + '8 days'
			THEN 'for 7 days' ELSE s.expire_time::text END,
		s.state::text, s.error_code, s.error_message], '|', '-')
	FROM unnest(task_ids) WITH ORDINALITY AS i (id, n),
		LATERAL anyvod_status(id) AS s
	ORDER BY n;
END;

--
-- Every normal answer: the kinds of tasks
--
SELECT * FROM regress_query.tell('image-k', 'video-k', 'audio-k', 'scene-k',
	'scene-video-k', 'redraw-k', 'hunyuan3d-k', 'edit-k', 'processimage-k',
	'procedure-k');
-- in the shape of Tencent's own answer, and in new-api's wrapper
SELECT * FROM regress_query.tell('image-full', 'video-full', 'audio-full',
	'redraw-full', 'edit-full', 'procedure-full', 'image-wrap', 'video-full-wrap');
-- the first of several files; a file that never expires
SELECT * FROM regress_query.tell('files3-image', 'files9-image-full', 'permanent-video',
	'permanent-image-full', 'permanent-edit');
-- failures, and a success without a file
SELECT * FROM regress_query.tell('fail-video', 'fail60000-image', 'fail70000-full',
	'extContentModerationFailed-image', 'fail40000-edit', 'fail-scene', 'fail-wrap', 'abort-video',
	'abort-full', 'nofile-image', 'nofile-video-full', 'nofile-audio', 'nofile-processimage');
-- tasks that run
SELECT * FROM regress_query.tell('t3600000-image', 't3600000-image-full',
	't3600000-jump47-video', 't3600000-jump100-full', 't3600000-jump101',
	't3600000-wait3600000-video', 't3600000-wait3600000-full', 't3600000-jump12-wrap',
	't3600000-wait3600000-wrap');
SELECT status, progress BETWEEN 40 AND 99 AS progress, state
FROM to_char(extract(epoch FROM now()) * 1000 - 1800000, 'FM99999999999999') AS created,
	anyvod_status('t3600000-progress-b' || created);
-- the whole answer
SELECT jsonb_pretty(jsonb_set(regress_query.mask(regexp_replace(
	anyvod_query('files2-video-whole')::text, '\d{4}-\d\d-\d\dT[\d:]+Z', 'DATE', 'g'))::jsonb,
	'{Response,RequestId}', '"UUID"'));
SELECT count(*) AS null_keys FROM jsonb_each(anyvod_query('video-full') -> 'Response')
WHERE value = 'null';
SELECT jsonb_object_keys(anyvod_query('image-wrap'));

--
-- Characters that jsonb cannot hold cost no answer
--
SELECT task_id, anyvod_query(task_id) #>> '{Response,AigcImageTask,Input,Prompt}'
FROM unnest('{nul-1,badutf8-1,surrogate-1,uni-1}'::text[])
	WITH ORDINALITY i (task_id, n) ORDER BY n;
SELECT * FROM regress_query.tell('nul-2', 'badutf8-2', 'surrogate-2', 'uni-2', 'uni-fail');

--
-- Arguments and contexts
--
SELECT anyvod_query(NULL) IS NULL, anyvod_query('image-null', NULL) IS NULL,
	anyvod_status(NULL) IS NULL, anyvod_status('image-null', NULL) IS NULL,
	regress_helpers.asked('image-null');
PREPARE ask(text) AS SELECT (anyvod_status($1)).state;
EXECUTE ask('image-prepared');
EXECUTE ask('fail-prepared');
EXECUTE ask('image-prepared');
DEALLOCATE ask;
SELECT regress_helpers.asked('image-prepared');
SELECT n FROM generate_series(1, 6) n
WHERE (anyvod_status(CASE n % 3 WHEN 0 THEN 'fail' ELSE 'image' END || '-where-' || n)).state = 'failed';
SELECT task_id, (anyvod_status(task_id => task_id, server => 'anyapi')).state
FROM (VALUES ('image-named'), ('t3600000-named')) v (task_id);
BEGIN READ ONLY;
SELECT jsonb_typeof(anyvod_query('image-read-only'));
COMMIT;
-- a query is planned on what it costs to ask, and not run in a worker
SELECT proname, procost, proparallel, provolatile, proisstrict FROM pg_proc
WHERE oid IN ('anyvod_query(text, name)'::regprocedure, 'anyvod_status(text, name)'::regprocedure)
ORDER BY 1;

-- a session keeps its connection: 100 questions in one statement take one
\c -
SELECT regress_helpers.counter('connections') AS connections,
	regress_helpers.counter('requests') AS requests \gset
SELECT count(*), count(DISTINCT anyvod_query('image-many-' || n) #>> '{Response,AigcImageTask,TaskId}')
FROM generate_series(1, 100) n;
SELECT regress_helpers.counter('connections') - :connections AS connections,
	regress_helpers.counter('requests') - :requests AS requests;

--
-- Errors before any request
--
SELECT regress_helpers.counter('requests') AS requests,
	regress_helpers.counter('other_paths') AS other_paths \gset
SELECT left(to_json(task_id)::text, 40), regress_query.ask(task_id)
FROM unnest(ARRAY['', '.', '..', '../../v1/models', 'a/b', 'a?b', 'a#b', 'a%2Fb', 'a b', 'a;b',
	'a@b', 'a:b', 'a\b', E'a\nb', E'\n', E'a\r\nX: y', E'a\tb', 'ä', '任务', repeat('x', 257),
	repeat('x', 10240)])
	WITH ORDINALITY i (task_id, n) ORDER BY n;
SELECT regress_query.ask('image-1', 'regress_query_missing');
SELECT regress_query.ask('image-1', '');
SET ROLE regress_query_user;
SELECT regress_query.ask('image-allowed');
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER anyapi FROM regress_query_user;
SET ROLE regress_query_user;
SELECT regress_query.ask('image-refused');
RESET ROLE;
SELECT regress_helpers.asked('image-allowed') AS allowed, regress_helpers.asked('image-refused') AS refused;
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_query_user;
SELECT regress_helpers.counter('requests') - :requests AS requests,
	regress_helpers.counter('other_paths') - :other_paths AS other_paths;

--
-- No connection.  The name has a label of 64 octets, one more than a name in
-- the DNS can have, so that no name server is asked.
--
CREATE SERVER regress_query_refused FOREIGN DATA WRAPPER anyvod OPTIONS (base_url 'http://127.0.0.1:1');
SELECT regress_query.ask('image-1', 'regress_query_refused');
SET client_min_messages = error;
CREATE SERVER regress_query_name FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.invalid');
SET client_min_messages = warning;
SELECT regress_query.ask('image-1', 'regress_query_name');
CREATE SERVER regress_query_tls FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url_tls');
SELECT regress_query.ask('image-1', 'regress_query_tls');
DROP SERVER regress_query_refused, regress_query_name, regress_query_tls;

--
-- Broken off, or too late
--
SELECT task_id, regress_query.ask(task_id)
FROM unnest('{cut-1,cutchunk-1,reset-1,resetbody-1,cut-huge100000}'::text[])
	WITH ORDINALITY i (task_id, n) ORDER BY n;
ALTER SERVER anyapi OPTIONS (ADD timeout '200ms');
SELECT regress_query.ask('delay5000-1');
SELECT regress_query.ask('dribble60000-1');
ALTER SERVER anyapi OPTIONS (DROP timeout);
-- what is merely slow, or closes the connection afterwards, is an answer
SELECT * FROM regress_query.tell('delay300-1', 'dribble300-1', 'close-1');

--
-- Too large, announced or not; too deep.  A larger limit lets it in.
--
SELECT regress_query.ask('huge17000000-1');
ALTER SERVER anyapi OPTIONS (ADD max_response_size '100kB');
SELECT regress_query.ask('huge200000-1');
SELECT regress_query.ask('cutchunk-huge200000');
SELECT length(anyvod_query('huge90000-1')::text) BETWEEN 89000 AND 91000 AS whole;
ALTER SERVER anyapi OPTIONS (SET max_response_size '1MB');
SELECT length(anyvod_query('huge200000-1')::text) BETWEEN 199000 AND 201000 AS whole;
ALTER SERVER anyapi OPTIONS (DROP max_response_size);
SELECT regress_query.ask('deep129-1');
SELECT regress_query.ask('deep1000000-1');
SELECT * FROM regress_query.tell('deep128-1', 'huge10000000-1');

--
-- The key is refused, and is not told.  What helps is in the hint.
--
SELECT regress_helpers.simulator('/_key?set=sk-the-right-one') IS NOT NULL AS set;
CREATE USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (api_key 'sk-the-wrong-one');
SET ROLE regress_query_user;
SELECT regress_query.ask('image-key');
CREATE USER MAPPING FOR CURRENT_USER SERVER anyapi OPTIONS (api_key 'sk-the-right-one');
SELECT * FROM regress_query.tell('image-key');
RESET ROLE;
SELECT regress_query.ask('image-key');
DROP USER MAPPING FOR PUBLIC SERVER anyapi;
SELECT regress_query.ask('image-key');
DROP USER MAPPING FOR regress_query_user SERVER anyapi;
SELECT regress_helpers.simulator('/_key') IS NOT NULL AS unset;
SELECT task_id, regress_query.ask(task_id)
FROM unnest('{http401-1,http403-1,oneapi-1,http403-html-1}'::text[])
	WITH ORDINALITY i (task_id, n) ORDER BY n;

--
-- Too many requests; the time that the gateway asks for is in the hint
--
SELECT task_id, regress_query.ask(task_id)
FROM unnest('{http429-1,http429-ra7,http429-ra0,double429-1,double429-ra7,http429-empty,eRequestLimitExceeded-1,
	eRequestLimitExceeded.UinLimitExceeded-1,eLimitExceeded-1}'::text[])
	WITH ORDINALITY i (task_id, n) ORDER BY n;
-- a date comes to between 3600 s and what a slow machine leaves of them
SELECT regress_query.ask('http429-rad3600') ~ '\n  HINT Try again in 3[56]\d\d s\.$' AS an_hour;

--
-- No such task
--
SELECT task_id, regress_query.ask(task_id)
FROM unnest('{unknown-1,eResourceNotFound-1,eInvalidParameterValue.TaskId-1}'::text[])
	WITH ORDINALITY i (task_id, n) ORDER BY n;

--
-- The upstream says that it failed, or refuses otherwise
--
SELECT task_id, regress_query.ask(task_id)
FROM unnest('{http500-1,http502-1,http503-1,http503-ra7,http504-1,http520-1,http524-1,eInternalError-1,
	eFailedOperation-1,eFailedOperation.InvalidVodUser-1,eAuthFailure.SignatureFailure-1,eUnauthorizedOperation-1,
	http400-1,http404-1,http418-1,http304-1}'::text[])
	WITH ORDINALITY i (task_id, n) ORDER BY n;

--
-- No answer about a task.  No redirect is followed.
--
SELECT regress_helpers.counter('elsewhere') AS elsewhere \gset
SELECT task_id, regress_query.ask(task_id)
FROM unnest('{html-1,http404-html,http301-1,http302-1,http307-1,http308-1,empty-1,http204-1,notjson-1,two-1}'::text[])
	WITH ORDINALITY i (task_id, n) ORDER BY n;
SELECT regress_helpers.counter('elsewhere') - :elsewhere AS followed;
-- a base URL that leads to the gateway's web application
\set base_url_path :base_url /console
CREATE SERVER regress_query_path FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url_path');
SELECT regress_query.ask('image-1', 'regress_query_path');
DROP SERVER regress_query_path;

--
-- statement_timeout: 57014, which EXCEPTION WHEN OTHERS does not swallow, and
-- the request is broken off; the next question is as good as any
--
SET statement_timeout = '200ms';
SELECT anyvod_query('delay600000-1');
\echo :LAST_ERROR_SQLSTATE
DO $$
BEGIN
	PERFORM anyvod_status('delay600000-2');
EXCEPTION WHEN OTHERS THEN
	RAISE EXCEPTION 'swallowed %', SQLSTATE;
END $$;
\echo :LAST_ERROR_SQLSTATE
DO $$
BEGIN
	PERFORM anyvod_status('delay600000-3');
EXCEPTION WHEN query_canceled THEN
	RAISE WARNING 'asked for: %', (anyvod_status('image-after-cancel')).state;
END $$;
RESET statement_timeout;
SELECT * FROM regress_query.tell('image-after-timeout');
DO $$
DECLARE
	deadline timestamptz := clock_timestamp() + '60 s';
BEGIN
	WHILE regress_helpers.counter('in_flight') > 0 LOOP
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'requests are still in flight';
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
-- an error in a transaction leaves nothing behind for the next question in it
BEGIN;
SAVEPOINT s;
SELECT anyvod_query('http500-savepoint');
ROLLBACK TO s;
SELECT (anyvod_status('image-savepoint')).state;
COMMIT;

--
-- Another schema, and what stands before it in the search path
--
CREATE DATABASE regress_query_odd TEMPLATE template0;
\c regress_query_odd
SET client_min_messages = warning;
CREATE SCHEMA regress_hostile;
SET search_path = regress_hostile;
CREATE TYPE anyvod_state AS ENUM ('hostile');
CREATE TYPE anyvod_result AS (hostile text);
CREATE TABLE anyvod_tasks (hostile text);
CREATE FUNCTION hostile(text) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hostile''; END';
CREATE FUNCTION length(text) RETURNS integer LANGUAGE sql AS 'SELECT regress_hostile.hostile($1)';
CREATE FUNCTION has_server_privilege(name, text) RETURNS boolean LANGUAGE sql
	AS 'SELECT regress_hostile.hostile($1) = 1';
CREATE FUNCTION hostile(name, name) RETURNS boolean LANGUAGE sql AS 'SELECT regress_hostile.hostile($1) = 1';
CREATE FUNCTION hostile(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT regress_hostile.hostile($1) = 1';
CREATE OPERATOR = (LEFTARG = name, RIGHTARG = name, FUNCTION = hostile);
CREATE OPERATOR <> (LEFTARG = name, RIGHTARG = name, FUNCTION = hostile);
CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile);
CREATE OPERATOR !~ (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile);
SET search_path = regress_hostile, pg_catalog;
SELECT length('the trap works');
CREATE SCHEMA "Odd Schema";
CREATE EXTENSION anyvod SCHEMA "Odd Schema";
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
SELECT status, state, error_code FROM "Odd Schema".anyvod_status('image-odd');
SELECT jsonb_typeof("Odd Schema".anyvod_query('image-odd'));
SELECT pg_typeof(s), (s).state FROM "Odd Schema".anyvod_parse("Odd Schema".anyvod_query('fail-odd')) s;
SELECT ordinal, storage_mode FROM "Odd Schema".anyvod_files("Odd Schema".anyvod_query('files2-odd'));
GRANT USAGE ON SCHEMA "Odd Schema", regress_hostile TO regress_query_user;
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_query_user;
SET ROLE regress_query_user;
-- the worker writes as the table's owner, who needs the schema: who inserts is told
INSERT INTO "Odd Schema".anyvod_tasks (task_id) VALUES ('image-odd-tracked');
INSERT INTO "Odd Schema".anyvod_tasks (task_id) VALUES ('a/b');
UPDATE "Odd Schema".anyvod_tasks SET owner = 'postgres';
UPDATE "Odd Schema".anyvod_tasks SET state = 'pending';
SELECT task_id, owner FROM "Odd Schema".anyvod_tasks;
RESET ROLE;
GRANT USAGE ON SCHEMA "Odd Schema" TO pg_database_owner;
DO $$
DECLARE
	deadline timestamptz := clock_timestamp() + '60 s';
BEGIN
	WHILE EXISTS (SELECT FROM "Odd Schema".anyvod_tasks WHERE state::text OPERATOR(pg_catalog.=) 'pending') LOOP
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'the task is still pending';
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT task_id, state, error_code FROM "Odd Schema".anyvod_tasks;
\c regression_anyvod
DROP DATABASE regress_query_odd WITH (FORCE);

SET client_min_messages = warning;
DROP SCHEMA regress_helpers, regress_query CASCADE;
DROP SERVER anyapi CASCADE;
DROP ROLE regress_query_user;
