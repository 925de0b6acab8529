--
-- Asking about many tasks at once: anyvod_query_many.  The gateway is the
-- simulator, whose task ids say what it does.
--
\t on
\pset format unaligned
\set SHOW_CONTEXT never
\getenv simulator_port ANYVOD_SIMULATOR_PORT
\set base_url http://127.0.0.1: :simulator_port
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS anyvod;

CREATE ROLE regress_many_user;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
CREATE SERVER regress_many_four FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url :'base_url', max_concurrency '4');
CREATE SCHEMA regress_many;
GRANT USAGE ON SCHEMA regress_many TO regress_many_user;

\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.psql'
\i :helpers

--
-- Rows
--

-- an answer for each task, be it running, ended well or badly
SELECT task_id, response #>> '{Response,Status}', error_code, error_message
FROM anyvod_query_many(ARRAY['image-m', 'video-t100000-m', 'fail-m', 'nofile-m'])
ORDER BY 1;
-- the response is what anyvod_query gives
SELECT bool_and(m.response #- '{Response,RequestId}' = anyvod_query(m.task_id) #- '{Response,RequestId}')
FROM anyvod_query_many(ARRAY['image-m', 'fail-m', 'badutf8-nul-m']) AS m;
-- in the order in which the answers arrive
SELECT (anyvod_query_many(ARRAY['delay600-m', 'delay300-m', 'image-m2'])).task_id;
-- nothing to ask
SELECT count(*) FROM anyvod_query_many('{}');
SELECT count(*) FROM anyvod_query_many(NULL);
-- arrays of more dimensions, duplicates asked once
SELECT regress_helpers.reset();
SELECT task_id FROM anyvod_query_many('{{dup-1,dup-2,dup-1},{dup-2,dup-2,dup-3}}') ORDER BY 1;
SELECT regress_helpers.counter('requests');
-- in the place of a lateral table
SELECT n, m.task_id FROM generate_series(1, 3) AS n,
	LATERAL anyvod_query_many(ARRAY['a-' || n, 'b-' || n]) AS m ORDER BY 1, 2;

--
-- A failure is a row, with what anyvod_query raises
--
CREATE VIEW regress_many.failures AS
SELECT unnest(ARRAY['unknown-m', 'http401-m', 'http403-m', 'http429-ra7-m',
	'http500-m', 'http503-m', 'http404-m', 'http301-m', 'html-m', 'empty-m',
	'notjson-m', 'oneapi-m', 'eInternalError-m', 'eResourceNotFound-m',
	'cut-m', 'cutchunk-m', 'resetbody-m', 'huge17000000-m', 'deep500-m',
	'two-m']) AS task_id;
SELECT m.task_id, m.error_code, m.error_message, m.response
FROM anyvod_query_many(ARRAY(SELECT task_id FROM regress_many.failures)) AS m
ORDER BY 1;
SELECT m.task_id FROM anyvod_query_many(ARRAY(SELECT task_id FROM regress_many.failures)) AS m
WHERE regress_helpers.trouble(format('SELECT anyvod_query(%L)', m.task_id))
	NOT LIKE m.error_code || ' ' || m.error_message || '%';
-- no answer in time, and no server at all
CREATE SERVER regress_many_late FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url :'base_url', timeout '100');
CREATE SERVER regress_many_nobody FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://127.0.0.1:1');
SELECT * FROM anyvod_query_many('{delay5000-m,image-m}', 'regress_many_late') AS m (task_id, answer)
WHERE answer IS NULL;
SELECT task_id, error_code, error_message FROM anyvod_query_many('{image-m}', 'regress_many_nobody');

--
-- What is an error: what makes all of it impossible
--
SELECT regress_helpers.reset();
SELECT regress_helpers.trouble($$SELECT anyvod_query_many(ARRAY['image-m', NULL])$$);
SELECT regress_helpers.trouble($$SELECT anyvod_query_many(ARRAY['image-m', '../m'])$$);
SELECT regress_helpers.trouble($$SELECT anyvod_query_many(ARRAY['image-m', ''])$$);
SELECT regress_helpers.trouble($$SELECT anyvod_query_many(ARRAY['image-m'], 'nowhere')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_query_many('{}', 'nowhere')$$);
SET ROLE regress_many_user;
SELECT regress_helpers.trouble($$SELECT anyvod_query_many(ARRAY['image-m'])$$);
RESET ROLE;
SELECT regress_helpers.counter('requests');
-- with USAGE it works
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_many_user;
SET ROLE regress_many_user;
SELECT task_id, error_code FROM anyvod_query_many(ARRAY['image-m']);
RESET ROLE;

--
-- Stopping early
--
-- LIMIT in the select list: at most the rows wanted and max_concurrency more
SELECT regress_helpers.reset();
SELECT count(*) FROM (SELECT anyvod_query_many(ARRAY(SELECT 'image-' || n FROM generate_series(1, 500) AS n),
											   'regress_many_four') LIMIT 10) AS ten;
SELECT regress_helpers.counter('requests') BETWEEN 10 AND 14;
-- a cursor, closed; nothing stays in flight
SELECT regress_helpers.reset();
BEGIN;
DECLARE c CURSOR FOR SELECT (anyvod_query_many(ARRAY(SELECT 'delay' || n FROM generate_series(1, 500) AS n),
											   'regress_many_four')).task_id;
FETCH 2 FROM c;
CLOSE c;
SELECT regress_helpers.counter('requests') BETWEEN 2 AND 6;
COMMIT;
-- two at once in one session, in turns
BEGIN;
DECLARE c1 CURSOR FOR SELECT (anyvod_query_many('{delay10-a,delay200-b,delay400-c}')).task_id;
DECLARE c2 CURSOR FOR SELECT (anyvod_query_many('{delay10-d,delay200-e,delay400-f}')).task_id;
FETCH c1;
FETCH c2;
FETCH c1;
FETCH ALL c2;
FETCH ALL c1;
COMMIT;
-- an error in the middle, caught
DO $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT anyvod_query_many(ARRAY['image-x', 'delay20000-y']) LOOP
		RAISE division_by_zero;
	END LOOP;
EXCEPTION WHEN division_by_zero THEN NULL;
END $$;
SELECT task_id, error_code FROM anyvod_query_many(ARRAY['image-after']);
-- a consumer that pauses for longer than the server's timeout loses nothing
ALTER SERVER regress_many_late OPTIONS (SET timeout '1000');
BEGIN;
DECLARE c CURSOR FOR SELECT (m).task_id, (m).error_code
	FROM (SELECT anyvod_query_many('{image-p,delay50-p}', 'regress_many_late') AS m) AS rows;
FETCH c;
SELECT pg_sleep(1.2) IS NOT NULL; -- the pause itself is what is tested
FETCH c;
COMMIT;

-- what EXPLAIN says of it, and who may call it
SELECT prorows, procost, provolatile, proparallel, proisstrict, prosecdef, proacl
FROM pg_proc WHERE proname = 'anyvod_query_many';

DROP SERVER regress_many_four, regress_many_late, regress_many_nobody;
DROP SERVER anyapi CASCADE;
DROP SCHEMA regress_helpers, regress_many CASCADE;
DROP ROLE regress_many_user;
