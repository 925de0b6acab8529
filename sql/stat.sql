--
-- The statistics: what the views have, who sees what of them, and that they
-- count what happens.  The gateway is the simulator, whose task ids say what
-- it does.
--
\t on
\pset format unaligned
\getenv simulator_port ANYVOD_SIMULATOR_PORT
\set base_url http://127.0.0.1: :simulator_port
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS anyvod;

-- columns
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'anyvod_stat_worker'::regclass ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'anyvod_stat_server'::regclass ORDER BY attnum;
-- everybody may look, superusers may reset
SELECT relname, reloptions, has_table_privilege('public', oid, 'SELECT') AS public_may
FROM pg_class WHERE relname LIKE 'anyvod_stat%' ORDER BY 1;
SELECT proname, has_function_privilege('public', oid, 'EXECUTE') AS public_may
FROM pg_proc WHERE proname LIKE 'anyvod_stat_%' ORDER BY 1;

--
-- Counting
--
CREATE ROLE regress_stat_a;
CREATE ROLE regress_stat_b;
CREATE ROLE regress_stat_monitor IN ROLE pg_monitor;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
CREATE SERVER regress_stat_other FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
CREATE USER MAPPING FOR PUBLIC SERVER anyapi OPTIONS (api_key 'sk-of-public');
CREATE USER MAPPING FOR regress_stat_a SERVER anyapi OPTIONS (api_key 'sk-of-a');
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_stat_a, regress_stat_b;
GRANT USAGE ON FOREIGN SERVER regress_stat_other TO regress_stat_a;

\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.psql'
\i :helpers

-- what other tests have left; a worker of theirs may not have counted the row yet
SELECT anyvod_stat_reset();
INSERT INTO anyvod_tasks (task_id) VALUES ('image-statid-first');
CALL regress_helpers.wait_for($$count(*) = 1 FROM anyvod_tasks WHERE state = 'succeeded' AND task_id = 'image-statid-first'$$);
CALL regress_helpers.wait_for($$polls > 0 AND pending + in_flight = 0 FROM anyvod_stat_worker WHERE datname = current_database()$$);
SELECT anyvod_stat_reset();
SELECT polls, changes_written, unchanged, restarts,
	request_p50_ms, detection_p50_ms, last_error, stats_reset <= now() AS reset
FROM anyvod_stat_worker WHERE datname = current_database();

INSERT INTO anyvod_tasks (task_id) SELECT 'image-statid-' || n FROM generate_series(1, 18) n;
INSERT INTO anyvod_tasks (task_id) VALUES ('fail-statid'), ('unknown-statid-x1'), ('image-statid-http503-x1'), ('image-statid-notjson-x1');
INSERT INTO anyvod_tasks (task_id, owner) VALUES ('image-statid-a1', 'regress_stat_a'), ('image-statid-a2', 'regress_stat_a');
INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-statid-other', 'regress_stat_other');
-- an answer that is not there yet
INSERT INTO anyvod_tasks (task_id, server) VALUES ('t3600000-statid-running', 'regress_stat_other');
CALL regress_helpers.wait_for($$count(*) = 0 FROM anyvod_tasks WHERE state = 'pending' AND task_id !~ 'running|unknown'$$);
CALL regress_helpers.wait_for($$state = 'serving' AND pending = 2 FROM anyvod_stat_worker WHERE datname = current_database()$$);
CALL regress_helpers.wait_for($$sum(succeeded) >= 23 AND sum(running) >= 1 FROM anyvod_stat_server$$);
SELECT sum(succeeded) - 23 AS succeeded, sum(failed) AS failed, sum(unknown_task) AS unknown_task, sum(transient) AS transient,
	sum(unreadable) AS unreadable, sum(auth) AS auth, sum(rejected) AS rejected, sum(no_output) AS no_output
FROM anyvod_stat_server;
SELECT last_error IN ('transient', 'unreadable') AS error, last_error_at > stats_reset AS error_since,
	pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = 'anyvod worker' AND datname = current_database()) AS pid,
	started_at <= clock_timestamp() AS started,
	request_p50_ms > 0 AND request_p50_ms <= request_p95_ms AND request_p95_ms <= request_p99_ms AS percentiles,
	restarts
FROM anyvod_stat_worker WHERE datname = current_database();
-- nothing is lost, and nothing counted twice
CALL regress_helpers.wait_for($$bool_and(requests - in_flight = running + succeeded + failed + no_output + auth + rate_limited + unknown_task
	+ transient + rejected + unreadable + no_response) FROM anyvod_stat_server$$);
CALL regress_helpers.wait_for($$(w.polls, w.in_flight) = (sum(s.requests), sum(s.in_flight))
	FROM anyvod_stat_worker w, anyvod_stat_server s WHERE w.datname = current_database()
	GROUP BY w.polls, w.in_flight$$);
SELECT server, mapped_role, state, paused_until, paused_why, succeeded,
	last_error IN ('transient', 'unreadable') AS error, last_error_detail ~ '^HTTP (503|200)$' AS detail
FROM anyvod_stat_server WHERE succeeded > 0 ORDER BY 1, 2;

-- a script of another version than the library
BEGIN;
SELECT probin FROM pg_proc WHERE proname = 'anyvod_stat_reset' \gset
CREATE FUNCTION pg_temp.workers(OUT datid oid, OUT pid bigint) RETURNS SETOF record
LANGUAGE C AS :'probin', 'anyvod_stat_get_workers';
CREATE FUNCTION pg_temp.servers(OUT server name, OUT status text) RETURNS SETOF record
LANGUAGE C AS :'probin', 'anyvod_stat_get_servers';
SAVEPOINT made;
SELECT * FROM pg_temp.workers();
ROLLBACK TO made;
SELECT * FROM pg_temp.servers();
ROLLBACK;

--
-- Who sees what
--
SET ROLE regress_stat_a;
SELECT DISTINCT server, mapped_role FROM anyvod_stat_server ORDER BY 1, 2;
SELECT datname = current_database() FROM anyvod_stat_worker;
SELECT anyvod_stat_reset();
SET ROLE regress_stat_b;
SELECT DISTINCT server, mapped_role FROM anyvod_stat_server ORDER BY 1, 2;
SELECT count(*) FROM anyvod_stat_get_servers();
SELECT datname = current_database() FROM anyvod_stat_worker;
SET ROLE regress_stat_monitor;
SELECT DISTINCT server, mapped_role FROM anyvod_stat_server ORDER BY 1, 2;
RESET ROLE;
GRANT EXECUTE ON FUNCTION anyvod_stat_reset() TO regress_stat_monitor;
SET ROLE regress_stat_monitor;
SELECT anyvod_stat_reset();
RESET ROLE;
-- neither a task nor a URL nor a key
SELECT count(*) FROM anyvod_stat_server s WHERE s::text ~ 'statid|http:|sk-';
SELECT count(*) FROM anyvod_stat_worker w WHERE w::text ~ 'statid|http:|sk-';

--
-- Pauses: one server wants fewer questions, another refuses a key
--
DELETE FROM anyvod_tasks;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-statid-http429-ra60-x1');
CALL regress_helpers.wait_for($$bool_and(state = 'paused') FROM anyvod_stat_server WHERE server = 'anyapi'$$);
SELECT DISTINCT state, paused_why, paused_until BETWEEN clock_timestamp() + '40 s' AND clock_timestamp() + '61 s' AS until
FROM anyvod_stat_server WHERE server = 'anyapi';
SELECT mapped_role, rate_limited, last_error, last_error_detail
FROM anyvod_stat_server WHERE server = 'anyapi' AND rate_limited > 0;
INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-statid-http401', 'regress_stat_other');
CALL regress_helpers.wait_for($$state = 'paused' FROM anyvod_stat_server WHERE server = 'regress_stat_other'$$);
SELECT mapped_role, state, paused_why, auth, last_error, last_error_detail
FROM anyvod_stat_server WHERE server = 'regress_stat_other';
SELECT last_error FROM anyvod_stat_worker WHERE datname = current_database();
-- what waits for the end of a pause is overdue, and more so with time
CALL regress_helpers.wait_for($$oldest_due < clock_timestamp() - interval '1 s' FROM anyvod_stat_worker WHERE datname = current_database()$$);
-- a change ends the pauses of that server, and no others
ALTER SERVER anyapi OPTIONS (ADD timeout '10s');
CALL regress_helpers.wait_for($$bool_and(state = 'working' AND paused_until IS NULL AND paused_why IS NULL) FROM anyvod_stat_server WHERE server = 'anyapi'$$);
SELECT state, auth FROM anyvod_stat_server WHERE server = 'regress_stat_other';
ALTER SERVER regress_stat_other OPTIONS (ADD timeout '10s');
CALL regress_helpers.wait_for($$auth = 2 FROM anyvod_stat_server WHERE server = 'regress_stat_other'$$);

-- a row's own trouble is an SQLSTATE
INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-statid-nowhere', 'regress_stat_nowhere');
INSERT INTO anyvod_tasks (task_id, owner) VALUES ('image-statid-nobody', 'regress_stat_nobody');
CALL regress_helpers.wait_for($$last_error = '42704' FROM anyvod_stat_worker WHERE datname = current_database()$$);

-- a mapping or server that is gone is not shown
DELETE FROM anyvod_tasks;
DROP USER MAPPING FOR regress_stat_a SERVER anyapi;
DROP SERVER regress_stat_other;
SELECT server, mapped_role FROM anyvod_stat_server ORDER BY 1, 2;

DROP SERVER anyapi CASCADE;
DROP SCHEMA regress_helpers CASCADE;
DROP OWNED BY regress_stat_monitor;
DROP ROLE regress_stat_a, regress_stat_b, regress_stat_monitor;
