--
-- Waiting until tasks have ended: anyvod_wait and anyvod_wait_all.  The
-- gateway is the simulator, whose task ids say what it does.
--
\t on
\pset format unaligned
\set SHOW_CONTEXT never
\getenv simulator_port ANYVOD_SIMULATOR_PORT
\set base_url http://127.0.0.1: :simulator_port
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS anyvod;
SELECT current_database() AS db \gset

-- running tasks are asked about often
ALTER DATABASE :"db" SET anyvod.detection_delay = '50ms';
SET anyvod.detection_delay = '50ms';
ALTER SYSTEM SET anyvod.poll_floor = '50ms';
SELECT pg_reload_conf();

CREATE ROLE regress_wait_a;
CREATE ROLE regress_wait_b;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
CREATE SERVER regress_wait_other FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_wait_a;
CREATE SCHEMA regress_wait;
GRANT USAGE ON SCHEMA regress_wait TO PUBLIC;

\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.psql'
\i :helpers
SELECT regress_helpers.reset() AS reset;

--
-- Tasks that are not tracked are asked for until they have ended
--
SELECT state, status, progress, file_url IS NOT NULL FROM anyvod_wait('image-w');
SELECT state, status, progress, file_url IS NOT NULL FROM anyvod_wait('video-t600-progress-w');
SELECT regress_helpers.asked('video-t600-progress-w') BETWEEN 3 AND 15;
SELECT (anyvod_wait(NULL)) IS NULL;
-- trouble that passes
SELECT state FROM anyvod_wait('http503-x1-w');
SELECT state FROM anyvod_wait('reset-x1-w');
SELECT state FROM anyvod_wait('http429-x1-w');
-- a failed task
SELECT regress_helpers.trouble($$SELECT anyvod_wait('fail-extModerationFailed-w')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('abort-t200-w')$$);
-- trouble that does not pass
SELECT regress_helpers.trouble($$SELECT anyvod_wait('http404-w')$$);
SELECT split_part(regress_helpers.trouble($$SELECT anyvod_wait('http401-w')$$), E'\n', 1);
SELECT split_part(regress_helpers.trouble($$SELECT anyvod_wait('huge17000000-w')$$), E'\n', 1);
-- not in time
SELECT regress_helpers.trouble($$SELECT anyvod_wait('t100000-jump42-w', '300 ms')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('t100000-wait100000-w', '300 ms')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('delay20000-w', '100 ms')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('http500-w', '100 ms')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('unknown-w', '100 ms')$$);
-- Retry-After is honoured: after the first no other question
SELECT regress_helpers.trouble($$SELECT anyvod_wait('http429-ra30-w', '1500 ms')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('http503-ra30-w', '1500 ms')$$);
SELECT regress_helpers.asked('http429-ra30-w'), regress_helpers.asked('http503-ra30-w');
-- statement_timeout is PostgreSQL's own
SET statement_timeout = '200 ms';
SELECT anyvod_wait('t100000-w');
RESET statement_timeout;
-- arguments
SELECT regress_helpers.trouble($$SELECT anyvod_wait('../w')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('image-w', '-1 s')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('image-w', server => 'nowhere')$$);
SET ROLE regress_wait_b;
SELECT regress_helpers.trouble($$SELECT anyvod_wait('image-w')$$);
RESET ROLE;

--
-- Tracked rows: the worker asks, and the session reads its row
--
SELECT regress_helpers.reset() AS reset;
INSERT INTO anyvod_tasks (task_id) VALUES ('video-t500-progress-r'), ('fail-t300-r'), ('t100000-jump42-r');
CREATE TABLE regress_wait.result AS SELECT w FROM anyvod_wait('video-t500-progress-r') AS w;
SELECT (w).state, (w).status, (w).progress, w = (status, progress, file_url, expire_time,
	state, error_code, error_message)::anyvod_result AS is_the_rows
FROM regress_wait.result, anyvod_tasks WHERE task_id = 'video-t500-progress-r';
SELECT state FROM anyvod_wait('video-t500-progress-r');
SELECT regress_helpers.asked('video-t500-progress-r')
	= (SELECT polls FROM anyvod_tasks WHERE task_id = 'video-t500-progress-r') AS asked_by_the_worker_alone;
SELECT regress_helpers.trouble($$SELECT anyvod_wait('fail-t300-r')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_wait('t100000-jump42-r', '500 ms')$$);
SET statement_timeout = '200 ms';
SELECT anyvod_wait('t100000-jump42-r');
RESET statement_timeout;
-- a row of this transaction, which the worker cannot see, is asked for here
BEGIN;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-own');
SELECT state FROM anyvod_wait('image-own');
ROLLBACK;
-- a row of another server is another task
SELECT state FROM anyvod_wait('video-t500-progress-r', server => 'regress_wait_other');
-- a row of another role is not seen
SET ROLE regress_wait_a;
SELECT regress_helpers.trouble($$SELECT anyvod_wait('t100000-jump42-r', '200 ms')$$);
RESET ROLE;
-- a snapshot that never changes
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT regress_helpers.trouble($$SELECT anyvod_wait('t100000-jump42-r', '2 s')$$);
SELECT state FROM anyvod_wait('image-w');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT regress_helpers.trouble($$SELECT anyvod_wait('t100000-jump42-r', '2 s')$$);
ROLLBACK;
-- abandoned
UPDATE anyvod_tasks SET state = 'abandoned', error_code = 'InternalError' WHERE task_id = 't100000-jump42-r';
SELECT regress_helpers.trouble($$SELECT anyvod_wait('t100000-jump42-r')$$);
DELETE FROM anyvod_tasks;

--
-- anyvod_wait_all
--
SET client_min_messages = notice;
INSERT INTO anyvod_tasks (task_id) SELECT 't' || n || '-all' FROM generate_series(1, 1000, 100) AS n;
INSERT INTO anyvod_tasks (task_id) VALUES ('fail-t400-all');
SELECT array_agg(task_id) AS ids FROM anyvod_tasks \gset
CALL anyvod_wait_all(:'ids', '60 s');
SELECT state, count(*) FROM anyvod_tasks GROUP BY 1 ORDER BY 1;
CALL anyvod_wait_all('{}', '1 s');
CALL anyvod_wait_all('{fail-t400-all,nobody-knows-it,fail-t400-all}', '1 s');
-- not in time
INSERT INTO anyvod_tasks (task_id) VALUES ('t100000-jump7-all');
CALL anyvod_wait_all('{t100000-jump7-all,fail-t400-all}', '500 ms');
SET statement_timeout = '200 ms';
CALL anyvod_wait_all('{t100000-jump7-all}', '1 h');
RESET statement_timeout;
-- from a block that has no transaction of its own
DO $$
BEGIN
	CALL anyvod_wait_all('{fail-t400-all}', '1 s');
	COMMIT;
	CALL anyvod_wait_all('{fail-t400-all}', '1 s');
END $$;
-- under any isolation level, since each look is a transaction
SET default_transaction_isolation = 'repeatable read';
INSERT INTO anyvod_tasks (task_id) VALUES ('t400-repeatable');
CALL anyvod_wait_all('{t400-repeatable}', '60 s');
RESET default_transaction_isolation;
-- refused
BEGIN;
CALL anyvod_wait_all('{fail-t400-all}', '1 s');
ROLLBACK;
SELECT regress_helpers.trouble($$CALL anyvod_wait_all('{fail-t400-all}', '1 s')$$);
CALL anyvod_wait_all('{fail-t400-all,NULL}', '1 s');
CALL anyvod_wait_all(NULL, '1 s');
CALL anyvod_wait_all('{fail-t400-all}', NULL);
CALL anyvod_wait_all('{fail/all}', '1 s');
CALL anyvod_wait_all('{fail-t400-all}', '-1 s');
SET client_min_messages = warning;

SELECT proname, prokind, provolatile, proparallel, proisstrict, prosecdef, procost, proacl
FROM pg_proc WHERE proname LIKE 'anyvod\_wait%' ORDER BY 1;

DELETE FROM anyvod_tasks;
ALTER DATABASE :"db" RESET anyvod.detection_delay;
ALTER SYSTEM RESET anyvod.poll_floor;
SELECT pg_reload_conf();
DROP SERVER regress_wait_other;
DROP SERVER anyapi CASCADE;
DROP SCHEMA regress_helpers, regress_wait CASCADE;
DROP ROLE regress_wait_a;
DROP ROLE regress_wait_b;
