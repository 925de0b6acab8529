--
-- The tracking table: what it is, who may do what with it, and how the worker
-- fills it in.  The gateway is the simulator, whose task ids say what it does.
--
\t on
\pset format unaligned
\getenv simulator_port ANYVOD_SIMULATOR_PORT
\set base_url http://127.0.0.1: :simulator_port
SET client_min_messages = warning;
SET IntervalStyle = 'postgres';
CREATE EXTENSION IF NOT EXISTS anyvod;
SELECT current_database() AS db \gset

-- running tasks are asked about often; a worker takes its database's settings
ALTER DATABASE :"db" SET anyvod.detection_delay = '50ms';
ALTER SYSTEM SET anyvod.poll_floor = '50ms';
SELECT pg_reload_conf();

CREATE ROLE regress_tasks_a;
CREATE ROLE regress_tasks_b;
CREATE ROLE regress_tasks_gone;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
CREATE SERVER regress_tasks_other FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_tasks_a, regress_tasks_b, regress_tasks_gone;
CREATE SCHEMA regress_tasks;
GRANT USAGE, CREATE ON SCHEMA regress_tasks TO PUBLIC;

\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.psql'
\i :helpers

-- what other tests have asked is not counted here
SELECT regress_helpers.reset() AS reset;

-- until a running task has been asked about n times more
CREATE PROCEDURE regress_tasks.wait_for_questions(task_id text, n integer)
LANGUAGE sql AS $$
	CALL regress_helpers.wait_for(format('regress_helpers.asked(%L) >= %s', task_id,
									   regress_helpers.asked(task_id) + n));
$$;

-- until no row is pending whose id matches
CREATE PROCEDURE regress_tasks.wait_until_settled(pattern text DEFAULT '')
LANGUAGE sql AS $$
	CALL regress_helpers.wait_for(format('NOT EXISTS (SELECT FROM anyvod_tasks
		WHERE state = ''pending'' AND task_id ~ %L)', pattern));
$$;

--
-- What the extension consists of
--

-- columns
SELECT attname, format_type(atttypid, atttypmod), attnotnull AS not_null,
	pg_get_expr(adbin, adrelid) AS default_value
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = 'anyvod_tasks'::regclass AND attnum > 0
ORDER BY attnum;
-- keys, constraints, indexes, storage
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = 'anyvod_tasks'::regclass AND contype <> 'n' ORDER BY 1;
SELECT pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = 'anyvod_tasks'::regclass ORDER BY indexrelid::regclass::text;
SELECT relkind, relpersistence, reloptions, relrowsecurity, relforcerowsecurity,
	pg_get_userbyid(relowner) AS owner
FROM pg_class WHERE oid = 'anyvod_tasks'::regclass;
-- triggers: O fires in ordinary sessions, R in replication, A in both
SELECT tgenabled, tgname, tgtype & 1 = 1 AS each_row, tgtype & 2 = 2 AS before FROM pg_trigger
WHERE tgrelid = 'anyvod_tasks'::regclass AND NOT tgisinternal ORDER BY tgname;
-- policies
SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies
WHERE tablename = 'anyvod_tasks';
-- types
SELECT enumlabel FROM pg_enum WHERE enumtypid = 'anyvod_state'::regtype ORDER BY enumsortorder;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'anyvod_result'::regclass ORDER BY attnum;
-- functions: volatility, strictness, parallel safety, cost, rights
SELECT p.oid::regprocedure, pg_get_function_result(p.oid) AS result, provolatile, proisstrict,
	proparallel, procost, prorows, prosecdef, proconfig,
	has_function_privilege('public', p.oid, 'EXECUTE') AS public_may
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND deptype = 'e'
WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'anyvod')
ORDER BY p.oid::regprocedure::text;
-- members
SELECT pg_describe_object(classid, objid, objsubid) AS member FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'anyvod')
	AND NOT (classid = 'pg_type'::regclass AND objid IN
		(SELECT oid FROM pg_type WHERE typcategory = 'A' OR
			typrelid IN (SELECT oid FROM pg_class WHERE relkind <> 'c')))
ORDER BY 1;
-- its rows are dumped; it stays where it was created
SELECT extconfig::regclass[], extcondition, extrelocatable FROM pg_extension WHERE extname = 'anyvod';
-- what PUBLIC may do with the table and with the wrapper; no column has rights of its own
SELECT string_agg(privilege_type, ' ' ORDER BY privilege_type), bool_or(is_grantable)
FROM pg_class, aclexplode(relacl) WHERE oid = 'anyvod_tasks'::regclass AND grantee = 0;
SELECT count(*) FROM pg_attribute WHERE attrelid = 'anyvod_tasks'::regclass AND attacl IS NOT NULL;
SELECT has_foreign_data_wrapper_privilege('public', 'anyvod', 'USAGE');
-- everything is explained
SELECT pg_describe_object(classid, objid, objsubid) AS without_comment FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'anyvod')
	AND obj_description(objid, classid::regclass::name) IS NULL
	AND classid <> 'pg_type'::regclass
	AND objid NOT IN (SELECT oid FROM pg_proc WHERE prorettype = 'trigger'::regtype OR proname = 'anyvod_fdw_validator')
UNION ALL
SELECT attname FROM pg_attribute
WHERE attrelid = 'anyvod_tasks'::regclass AND attnum > 0 AND col_description(attrelid, attnum) IS NULL;

--
-- Task ids: the table takes those that the functions take.  Nothing is
-- committed here, so that nothing is asked.
--
BEGIN;
SELECT left(to_json(id)::text, 30), left(regress_helpers.trouble(format('INSERT INTO anyvod_tasks (task_id) VALUES (%L)', id)), 5) AS table,
	left(regress_helpers.trouble(format('SELECT anyvod_query(%L, ''missing'')', id)), 5) AS function
FROM unnest(ARRAY['251000800-AigcVideoTask-0af3t', 'A.b_C-9', '...', '.a', repeat('x', 256),
	'', '.', '..', repeat('x', 257), 'a/b', '../a', 'a?b', 'a#b', 'a%2e', 'a b', E'a\nb', E'a\n', 'ä', '任务'])
	WITH ORDINALITY i (id, n) ORDER BY n;
SELECT regress_helpers.trouble('INSERT INTO anyvod_tasks (task_id) VALUES (NULL)') ~ '^23502 ' AS no_id,
	regress_helpers.trouble($$INSERT INTO anyvod_tasks (task_id, state) VALUES ('a', 'done')$$) ~ '^22P02 ' AS no_state,
	regress_helpers.trouble($$UPDATE anyvod_tasks SET task_id = 'a/b' WHERE task_id = '...'$$) ~ '^23514 ' AS renamed;
ROLLBACK;

--
-- Two roles: each has rows of its own.  (What is inserted has ended, so that
-- nothing changes once it is settled.)
--
SET ROLE regress_tasks_a;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-a-1'), ('image-a-2');
SET ROLE regress_tasks_b;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-b-1');
SELECT task_id, owner FROM anyvod_tasks ORDER BY 1;
RESET ROLE;
CALL regress_tasks.wait_until_settled();

SET ROLE regress_tasks_b;
-- of the rows of others, none is seen, changed or deleted
UPDATE anyvod_tasks SET state = 'abandoned' WHERE task_id = 'image-a-1' RETURNING task_id;
DELETE FROM anyvod_tasks WHERE task_id = 'image-a-1' RETURNING task_id;
SELECT count(*) FROM anyvod_tasks WHERE owner = 'regress_tasks_a';
-- an id that is taken is refused, without telling more
SELECT regress_helpers.trouble($$INSERT INTO anyvod_tasks (task_id) VALUES ('image-a-1')$$);
INSERT INTO anyvod_tasks (task_id) VALUES ('image-a-1') ON CONFLICT DO NOTHING RETURNING task_id;
-- no row for others, none on a server without USAGE, or on none
SELECT regress_helpers.trouble($$INSERT INTO anyvod_tasks (task_id, owner) VALUES ('image-b-2', 'regress_tasks_a')$$);
SELECT regress_helpers.trouble($$INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-b-2', 'regress_tasks_other')$$);
SELECT regress_helpers.trouble($$INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-b-2', 'regress_tasks_missing')$$);
SELECT regress_helpers.trouble($$UPDATE anyvod_tasks SET owner = 'regress_tasks_a'$$);
SELECT regress_helpers.trouble($$UPDATE anyvod_tasks SET server = 'regress_tasks_other'$$);
SELECT regress_helpers.trouble($$UPDATE anyvod_tasks SET server = 'regress_tasks_missing'$$);
-- no code of theirs runs on it, nobody else's rows are held or removed
\copy anyvod_tasks (task_id) FROM '/dev/null'
CREATE FUNCTION regress_tasks.trap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
SELECT regress_helpers.trouble('CREATE TRIGGER trap BEFORE UPDATE ON anyvod_tasks FOR EACH ROW EXECUTE FUNCTION regress_tasks.trap()');
SELECT regress_helpers.trouble('CREATE TABLE regress_tasks.trap (task_id text REFERENCES anyvod_tasks)');
SELECT regress_helpers.trouble('TRUNCATE anyvod_tasks');
SELECT regress_helpers.trouble('ALTER TABLE anyvod_tasks DISABLE ROW LEVEL SECURITY');
SELECT regress_helpers.trouble('CREATE POLICY trap ON anyvod_tasks USING (true)');
DROP FUNCTION regress_tasks.trap;
RESET ROLE;
-- a superuser sees all
SELECT task_id, owner, state FROM anyvod_tasks ORDER BY 1;
-- a role that has lost USAGE still sees its rows and may delete them
REVOKE USAGE ON FOREIGN SERVER anyapi FROM regress_tasks_a;
SET ROLE regress_tasks_a;
SELECT task_id FROM anyvod_tasks ORDER BY 1;
SELECT regress_helpers.trouble($$UPDATE anyvod_tasks SET state = 'pending'$$);
DELETE FROM anyvod_tasks;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_tasks_a;
DELETE FROM anyvod_tasks;

--
-- Tracked to the end
--
SET ROLE regress_tasks_a;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-end'), ('video-full-end'), ('audio-end'), ('scene-video-end'),
	('redraw-end'), ('edit-full-end'), ('processimage-nofile-end'), ('procedure-end'), ('files3-image-wrap-end'),
	('permanent-end'), ('nul-surrogate-badutf8-end'), ('mHailuo-v2.3-video-end'), ('fail-video-end'), ('fail60000-scene-end'),
	('extContentModerationFailed-full-end'), ('abort-end'), ('uni-fail-end'), ('t1000-video-end');
-- a row older than the upstream's memory is asked for once more
INSERT INTO anyvod_tasks (task_id, created_at) VALUES ('image-old-end', now() - interval '4 days'),
	('unknown-old-end', now() - interval '4 days'),
	('nofile-old-end', now() - interval '4 days');
RESET ROLE;
CALL regress_tasks.wait_until_settled();
SELECT array_to_string(ARRAY[task_id, state::text, status, progress::text,
	regexp_replace(file_url, ':\d+/', ':PORT/'),
	CASE WHEN expire_time = 'infinity' THEN 'never' WHEN expire_time > ended_at + '7 days' THEN 'for 7 days'
		ELSE expire_time::text END,
	task_type, model, error_code, error_message, (ended_at - started_at)::text], '|', '-')
FROM anyvod_tasks ORDER BY task_id;
-- what is kept: the answer, how often it was asked, and when
SELECT count(*), count(response) FROM anyvod_tasks;
SELECT task_id, (anyvod_parse(response)).state FROM anyvod_tasks
WHERE (anyvod_parse(response)).state IS DISTINCT FROM state ORDER BY 1;
SELECT task_id, polls, regress_helpers.asked(task_id) FROM anyvod_tasks
WHERE polls <> regress_helpers.asked(task_id) OR (polls <> 1 AND task_id <> 't1000-video-end');
SELECT polls > 1 FROM anyvod_tasks WHERE task_id = 't1000-video-end';
SELECT count(*) FROM anyvod_tasks
WHERE settled_at IS DISTINCT FROM updated_at OR settled_at < created_at OR settled_at > clock_timestamp()
	OR server <> 'anyapi' OR owner <> 'regress_tasks_a';
SELECT ordinal, f.file_url = t.file_url AS main
FROM anyvod_tasks t, LATERAL anyvod_files(t.response) f WHERE task_id = 'files3-image-wrap-end' ORDER BY 1;
DELETE FROM anyvod_tasks;

--
-- While a task runs: progress is written, an answer without news is not
--
INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-jump47-video-runs'), ('t3600000-wait3600000-runs');
CALL regress_helpers.wait_for('count(status) = 2 FROM anyvod_tasks');
SELECT task_id, state, status, progress, file_url, task_type, model, error_code, response,
	started_at IS NULL AS not_started, ended_at, settled_at FROM anyvod_tasks ORDER BY 1;
CREATE TEMP TABLE before AS SELECT ctid AS place, xmin AS writer, * FROM anyvod_tasks;
CALL regress_tasks.wait_for_questions('t3600000-jump47-video-runs', 5);
SELECT count(*) FROM before b JOIN anyvod_tasks t USING (task_id)
WHERE b.place = t.ctid AND b.writer = t.xmin AND b.updated_at = t.updated_at AND b.polls = t.polls;
DROP TABLE before;
DELETE FROM anyvod_tasks;

--
-- Trouble.  A server's is not written into its rows; a row's own is, and goes
-- when an answer comes.
--
CREATE SERVER regress_tasks_bumpy FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
INSERT INTO anyvod_tasks (task_id, server) VALUES ('http500-trouble', 'regress_tasks_bumpy'),
	('http500-x1-image-trouble', 'regress_tasks_other');
CALL regress_tasks.wait_until_settled('x1');
CALL regress_tasks.wait_for_questions('http500-trouble', 1);
SELECT task_id, state, status, error_code, error_message, polls, updated_at IS NULL AS not_written
FROM anyvod_tasks ORDER BY 1;
DELETE FROM anyvod_tasks;
DROP SERVER regress_tasks_bumpy;
INSERT INTO anyvod_tasks (task_id) VALUES ('unknown-trouble'), ('eResourceNotFound-trouble'), ('nofile-trouble');
CALL regress_helpers.wait_for('count(error_code) = 3 FROM anyvod_tasks WHERE state = ''pending''');
SELECT task_id, status, error_code, error_message, polls, response, settled_at FROM anyvod_tasks
WHERE state = 'pending' ORDER BY 1;
DELETE FROM anyvod_tasks;

--
-- Asked again, by a user: as if it had never been asked
--
SET ROLE regress_tasks_a;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-again'), ('fail-again');
RESET ROLE;
CALL regress_tasks.wait_until_settled();
SET ROLE regress_tasks_a;
BEGIN;
WITH again AS (UPDATE anyvod_tasks SET state = 'pending' RETURNING *)
SELECT task_id, status, progress, file_url, expire_time, error_code, error_message, response,
	started_at, ended_at, settled_at, polls FROM again ORDER BY 1;
COMMIT;
RESET ROLE;
CALL regress_tasks.wait_until_settled();
SELECT task_id, state, status, error_code, polls, regress_helpers.asked(task_id), settled_at = updated_at AS settled
FROM anyvod_tasks ORDER BY 1;
DELETE FROM anyvod_tasks;

--
-- Settled by a user, or deleted: it is not asked any more.  Another task is,
-- four times over before it is looked at again.
--
INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-by-hand'), ('t3600000-deleted'), ('t3600000-other');
CALL regress_helpers.wait_for('count(status) = 3 FROM anyvod_tasks');
BEGIN;
UPDATE anyvod_tasks SET state = 'abandoned', error_message = 'not needed' WHERE task_id = 't3600000-by-hand'
RETURNING state, status, settled_at = now() AS settled;
COMMIT;
DELETE FROM anyvod_tasks WHERE task_id = 't3600000-deleted';
CALL regress_tasks.wait_for_questions('t3600000-other', 2);
SELECT regress_helpers.asked('t3600000-by-hand') AS by_hand, regress_helpers.asked('t3600000-deleted') AS deleted \gset
CALL regress_tasks.wait_for_questions('t3600000-other', 4);
SELECT regress_helpers.asked('t3600000-by-hand') - :by_hand AS by_hand,
	regress_helpers.asked('t3600000-deleted') - :deleted AS deleted;
SELECT task_id, state, status, error_message FROM anyvod_tasks ORDER BY 1;
-- a time that the user gives stays
UPDATE anyvod_tasks SET state = 'failed', settled_at = '2026-01-01 00:00+00' WHERE task_id = 't3600000-other'
RETURNING settled_at = '2026-01-01 00:00+00' AS as_given;
-- a row that is inserted as settled has been settled then
INSERT INTO anyvod_tasks (task_id, state) VALUES ('inserted-settled', 'succeeded')
RETURNING settled_at = now() AS settled;
INSERT INTO anyvod_tasks (task_id, state, settled_at) VALUES ('inserted-then', 'failed', '2026-01-01 00:00+00')
RETURNING settled_at = '2026-01-01 00:00+00' AS as_given;
DELETE FROM anyvod_tasks WHERE task_id LIKE 'inserted-%';
DELETE FROM anyvod_tasks;

--
-- Another server, owner or id: asked there, with that, or by that, as if it had
-- never been asked
--
INSERT INTO anyvod_tasks (task_id, server) VALUES ('http500-x3-image-moved', 'regress_tasks_other');
CALL regress_helpers.wait_for('regress_helpers.asked(''http500-x3-image-moved'') = 3');
UPDATE anyvod_tasks SET server = 'anyapi';
CALL regress_tasks.wait_until_settled();
SELECT server, state, polls FROM anyvod_tasks;
DELETE FROM anyvod_tasks;
SET ROLE regress_tasks_a;
INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-owner');
RESET ROLE;
CALL regress_helpers.wait_for('count(status) = 1 FROM anyvod_tasks');
BEGIN;
UPDATE anyvod_tasks SET owner = 'regress_tasks_b' RETURNING status, started_at;
COMMIT;
CALL regress_helpers.wait_for('count(status) = 1 FROM anyvod_tasks');
SELECT owner, status, state FROM anyvod_tasks;
BEGIN;
UPDATE anyvod_tasks SET server = 'regress_tasks_other' RETURNING status, started_at;
ROLLBACK;
BEGIN;
UPDATE anyvod_tasks SET task_id = 'image-renamed' RETURNING status, started_at;
COMMIT;
CALL regress_tasks.wait_until_settled();
SELECT task_id, state FROM anyvod_tasks;
DELETE FROM anyvod_tasks;

--
-- A role or server that is gone: its rows stay pending and say so, the others
-- go on, and all is well when it comes back
--
SET ROLE regress_tasks_gone;
INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-role');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER regress_tasks_other TO regress_tasks_a;
SET ROLE regress_tasks_a;
INSERT INTO anyvod_tasks (task_id, server) VALUES ('t3600000-server', 'regress_tasks_other'), ('t3600000-usage', 'anyapi');
RESET ROLE;
INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-stays');
CALL regress_helpers.wait_for('count(status) = 4 FROM anyvod_tasks');
REVOKE USAGE ON FOREIGN SERVER anyapi FROM regress_tasks_a, regress_tasks_gone;
DROP ROLE regress_tasks_gone;
DROP SERVER regress_tasks_other;
INSERT INTO anyvod_tasks (task_id, server) VALUES ('image-server', 'regress_tasks_other');
CALL regress_helpers.wait_for('count(error_code) = 4 FROM anyvod_tasks');
CALL regress_tasks.wait_for_questions('t3600000-stays', 3);
SELECT task_id, state, status, error_code, error_message FROM anyvod_tasks ORDER BY 1;
CREATE SERVER regress_tasks_other FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
SELECT anyvod_wake();
CALL regress_tasks.wait_until_settled('^image-server$');
SELECT state, error_code, error_message FROM anyvod_tasks WHERE task_id = 'image-server';
GRANT USAGE ON FOREIGN SERVER anyapi TO regress_tasks_a;
DELETE FROM anyvod_tasks;

--
-- Only what is committed is asked for; anyvod_wake is for loads that fire no
-- trigger
--
BEGIN;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-rolled-back');
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-savepoint');
ROLLBACK TO s;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-committed');
COMMIT;
CALL regress_tasks.wait_until_settled();
SELECT task_id, state, regress_helpers.asked('image-rolled-back') + regress_helpers.asked('image-savepoint') AS asked FROM anyvod_tasks;
ALTER TABLE anyvod_tasks DISABLE TRIGGER USER;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-woken');
ALTER TABLE anyvod_tasks ENABLE TRIGGER anyvod_tasks_turned;
ALTER TABLE anyvod_tasks ENABLE ALWAYS TRIGGER anyvod_tasks_changed;
SELECT anyvod_wake();
CALL regress_tasks.wait_until_settled();
-- replication fires the row trigger
SET session_replication_role = replica;
INSERT INTO anyvod_tasks (task_id) VALUES ('image-replicated');
RESET session_replication_role;
CALL regress_tasks.wait_until_settled();
SELECT task_id, state FROM anyvod_tasks ORDER BY 1;
DELETE FROM anyvod_tasks;

--
-- Who listens is told of each row that is settled, and of no other change.
-- Our own notification comes last, as the queue keeps the order of commits.
--
\o |sed -e 's/PID [0-9]*/PID N/' -e 'H;$!d;x'
LISTEN anyvod_tasks;
INSERT INTO anyvod_tasks (task_id) VALUES ('t500-image-told');
CALL regress_tasks.wait_until_settled();
INSERT INTO anyvod_tasks (task_id) VALUES ('fail-told');
CALL regress_tasks.wait_until_settled();
INSERT INTO anyvod_tasks (task_id, created_at) VALUES ('unknown-told', now() - interval '4 days');
CALL regress_tasks.wait_until_settled();
NOTIFY anyvod_tasks, 'the last';
\o
UNLISTEN anyvod_tasks;
DELETE FROM anyvod_tasks;

--
-- A join with an ordinary text column goes through the primary key, for a role
-- under row security, too
--
CREATE TABLE regress_tasks.orders (id integer PRIMARY KEY, task_id text);
GRANT SELECT ON regress_tasks.orders TO PUBLIC;
INSERT INTO anyvod_tasks (task_id, state) SELECT 'image-settled-' || n, 'succeeded' FROM generate_series(1, 1000) n;
ANALYZE anyvod_tasks;
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT o.id, t.state FROM regress_tasks.orders o JOIN anyvod_tasks t USING (task_id) WHERE o.id = 1;
SET ROLE regress_tasks_a;
EXPLAIN (COSTS OFF) SELECT o.id, t.state FROM regress_tasks.orders o JOIN anyvod_tasks t USING (task_id) WHERE o.id = 1;
RESET ROLE;
-- what the worker scans is in an index of pending rows, in the order of its pages
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT server FROM anyvod_tasks WHERE state = 'pending' ORDER BY created_at DESC, task_id DESC LIMIT 10;
EXPLAIN (COSTS OFF) SELECT server FROM anyvod_tasks WHERE state = 'pending' AND (created_at, task_id) < ('2026-01-01 00:00+00', 't7') ORDER BY created_at DESC, task_id DESC LIMIT 10;
RESET enable_seqscan;
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_bitmapscan;
RESET enable_sort;
DELETE FROM anyvod_tasks;

--
-- Dropped while tasks run, and created again: the worker serves the new table
--
INSERT INTO anyvod_tasks (task_id) VALUES ('t3600000-dropped');
CALL regress_helpers.wait_for('count(status) = 1 FROM anyvod_tasks');
SELECT regress_helpers.trouble('DROP TABLE anyvod_tasks');
DROP EXTENSION anyvod CASCADE;
SELECT count(*) FROM pg_proc WHERE proname LIKE 'anyvod%';
CREATE EXTENSION anyvod;
SELECT count(*) FROM anyvod_tasks;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url');
INSERT INTO anyvod_tasks (task_id) VALUES ('image-new');
CALL regress_tasks.wait_until_settled();
SELECT task_id, state, polls FROM anyvod_tasks;
DELETE FROM anyvod_tasks;

--
-- The trigger functions serve this table only: nobody makes them write into
-- another one, whose columns may be of other types
--
SET ROLE regress_tasks_a;
CREATE TEMP TABLE regress_tasks_mine (state text, settled_at text);
INSERT INTO regress_tasks_mine VALUES ('pending');
SELECT regress_helpers.trouble('CREATE TRIGGER mine BEFORE UPDATE ON regress_tasks_mine FOR EACH ROW EXECUTE FUNCTION anyvod_tasks_turned()');
SELECT regress_helpers.trouble('CREATE TRIGGER mine AFTER UPDATE ON regress_tasks_mine FOR EACH ROW EXECUTE FUNCTION anyvod_tasks_changed()');
RESET ROLE;
CREATE TRIGGER regress_tasks_super BEFORE UPDATE ON regress_tasks_mine FOR EACH ROW EXECUTE FUNCTION anyvod_tasks_turned();
SELECT left(regress_helpers.trouble($$UPDATE regress_tasks_mine SET state = 'done'$$), 5);
DROP TABLE regress_tasks_mine;

DROP SERVER anyapi;
DROP SCHEMA regress_helpers, regress_tasks CASCADE;
DROP ROLE regress_tasks_a, regress_tasks_b;
ALTER SYSTEM RESET anyvod.poll_floor;
ALTER DATABASE :"db" RESET anyvod.detection_delay;
SELECT pg_reload_conf();
