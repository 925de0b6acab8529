--
-- What is made to be looked at: bars, the dashboard, results that expire.
--
\t on
\pset format unaligned
\getenv simulator_port ANYVOD_SIMULATOR_PORT
\set base_url http://127.0.0.1: :simulator_port
SET client_min_messages = warning;
SET IntervalStyle = 'postgres';
CREATE EXTENSION IF NOT EXISTS anyvod;

--
-- Bars
--
SELECT progress, anyvod_bar(progress, 10) FROM unnest(ARRAY[-2147483648, -1, 0, 1, 9, 10, 47, 99, 100, 101, 2147483647]) p (progress);
SELECT width, length(anyvod_bar(50, width)), left(anyvod_bar(50, width), 3) FROM unnest(ARRAY[-2147483648, -1, 0, 1, 2, 3, 999, 1000, 2147483647]) w (width);
SELECT anyvod_bar(25), anyvod_bar(NULL) IS NULL, anyvod_bar(1, NULL) IS NULL;
-- never full before 100, never shorter for more
SELECT count(*) FROM generate_series(0, 99) p, generate_series(1, 200) w WHERE anyvod_bar(p, w) !~ '░$';
SELECT count(*) FROM generate_series(1, 100) p, generate_series(1, 200) w
WHERE length(replace(anyvod_bar(p, w), '░', '')) < length(replace(anyvod_bar(p - 1, w), '░', ''));
-- in a generated column, hence immutable
BEGIN;
CREATE TABLE bars (progress integer, bar text GENERATED ALWAYS AS (anyvod_bar(progress, 4)) STORED);
INSERT INTO bars VALUES (50) RETURNING bar;
ROLLBACK;
-- where the encoding has no blocks
SELECT current_database() AS db \gset
CREATE DATABASE regress_looks_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
\c regress_looks_latin1
CREATE EXTENSION anyvod;
SELECT anyvod_bar(47, 10), anyvod_bar(100, 3), anyvod_bar(0, 3), length(anyvod_bar(0, 2147483647));
SELECT count(*) FROM anyvod_dashboard;
\c :"db"
DROP DATABASE regress_looks_latin1;
SET client_min_messages = warning;
SET IntervalStyle = 'postgres';

--
-- The views: what they have, who may look
--
SELECT attrelid::regclass, attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid IN ('anyvod_dashboard'::regclass, 'anyvod_expiring'::regclass) ORDER BY attrelid::regclass::text, attnum;
SELECT relname, reloptions, has_table_privilege('public', oid, 'SELECT') AS public_may,
	has_table_privilege('public', oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') AS more
FROM pg_class WHERE relname IN ('anyvod_dashboard', 'anyvod_expiring') ORDER BY 1;

CREATE ROLE regress_looks_a;
CREATE ROLE regress_looks_b;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
CREATE SERVER regress_looks_bumpy FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
CREATE USER MAPPING FOR PUBLIC SERVER regress_looks_bumpy OPTIONS (api_key 'sk-of-public');
CREATE USER MAPPING FOR regress_looks_a SERVER regress_looks_bumpy OPTIONS (api_key 'sk-of-a');
GRANT USAGE ON FOREIGN SERVER anyapi, regress_looks_bumpy TO regress_looks_a, regress_looks_b;

\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.psql'
\i :helpers

-- the worker of this database has been here, whatever other tests did
INSERT INTO anyvod_tasks (task_id) VALUES ('image-looks-first');
CALL regress_helpers.wait_for('NOT EXISTS (SELECT FROM anyvod_tasks WHERE state = ''pending'')');
DELETE FROM anyvod_tasks;

--
-- The dashboard, of rows that the worker never sees: nothing is committed
--
BEGIN;
INSERT INTO anyvod_tasks (task_id, owner, state, status, progress, file_url, expire_time, model,
	error_code, error_message, started_at, ended_at, created_at, settled_at)
SELECT id, owner, state::anyvod_state, status, progress, url, now() + expires::interval, model,
	code, message, now() - begun::interval, now() - ended::interval, now() - '1 hour'::interval, now() - settled::interval
FROM (VALUES
	('p-new', 'regress_looks_a', 'pending', NULL, NULL::integer, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('p-queued', 'regress_looks_a', 'pending', 'WAITING', 0, NULL, NULL, 'Kling 2.1', NULL, NULL, '20 s', NULL, NULL),
	('p-runs', 'regress_looks_b', 'pending', 'PROCESSING', 47, NULL, NULL, 'Kling 2.1', NULL, NULL, '92.7 s', NULL, NULL),
	('p-trouble', 'regress_looks_a', 'pending', NULL, NULL, NULL, NULL, NULL, '42501', repeat('permission denied ', 10), NULL, NULL, NULL),
	('p-skew', 'regress_looks_a', 'pending', 'PROCESSING', 300, NULL, NULL, NULL, NULL, NULL, '-5 s', NULL, NULL),
	('s-new', 'regress_looks_a', 'succeeded', 'FINISH', NULL, 'https://a.example/b/c.png?sign=x/y', '6 days 23:00', 'GEM 2.5', NULL, NULL, '90 s', '80 s', '78 s'),
	('s-old', 'regress_looks_a', 'succeeded', 'FINISH', 100, 'https://a.example/old.png', '6 days', 'GEM 2.5', NULL, NULL, '11 min', '10.5 min', '10.1 min'),
	('s-dying', 'regress_looks_b', 'succeeded', 'FINISH', 100, 'https://a.example/dying.mp4#t=1', '23:59', 'GEM 2.5', NULL, NULL, '6 days 00:02', '6 days', '6 days'),
	('s-dead', 'regress_looks_b', 'succeeded', 'FINISH', 100, 'https://a.example/dead.mp4', '-1 s', 'GEM 2.5', NULL, NULL, '8 days', '7 days', '7 days'),
	('s-nofile', 'regress_looks_b', 'succeeded', 'FINISH', 100, NULL, NULL, 'GEM 2.5', NULL, NULL, '5 min', '4 min', '4 min'),
	('f-new', 'regress_looks_a', 'failed', 'FINISH', 100, NULL, NULL, 'GEM 2.5', 'ContentModerationFailed', 'no', '8 min', '7 min', '7 min'),
	('a-new', 'regress_looks_a', 'abandoned', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '9 min'))
	t (id, owner, state, status, progress, url, expires, model, code, message, begun, ended, settled);
UPDATE anyvod_tasks SET file_url = 'https://a.example/kept.png', expire_time = 'infinity' WHERE task_id = 's-nofile';
INSERT INTO anyvod_tasks (task_id, state, file_url, expire_time, settled_at)
VALUES ('s-kept', 'succeeded', 'https://a.example/kept.png', 'infinity', now() - interval '1 year'),
	('s-never', 'succeeded', 'https://a.example/never.png', '-infinity', now() - interval '1 year');
SELECT * FROM anyvod_dashboard;
-- who sees what
SET ROLE regress_looks_b;
SELECT task_id FROM anyvod_dashboard;
SELECT task_id FROM anyvod_expiring ORDER BY 1;
RESET ROLE;

--
-- Results that expire
--
SELECT task_id, owner, model, file_url, expires_in, expires_in = expire_time - now() FROM anyvod_expiring ORDER BY expire_time;
SELECT task_id FROM anyvod_expiring WHERE expires_in < '1 day';
SELECT count(*) FROM anyvod_expiring WHERE expires_in > '7 days';
-- what was copied elsewhere expires no more
UPDATE anyvod_tasks SET file_url = 'https://mine.example/dying.mp4', expire_time = 'infinity' WHERE task_id = 's-dying';
SELECT task_id FROM anyvod_expiring WHERE expires_in < '1 day';
ROLLBACK;
-- a long table is not read as a whole for it
BEGIN;
INSERT INTO anyvod_tasks (task_id, state, file_url, expire_time, settled_at, created_at)
SELECT 'old-' || n, 'succeeded', 'https://a.example/' || n, now() - interval '1 day' * n, now() - interval '1 day' * (n + 7), now() - interval '1 day' * (n + 8)
FROM generate_series(1, 5000) n;
ANALYZE anyvod_tasks;
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		RETURN NEXT (regexp_match(line, '(?:Seq|Index|Bitmap Index) .*Scan.*on anyvod_tasks\w*|Index Scan using anyvod_tasks\w*'))[1];
	END LOOP;
END $$;
SELECT scan FROM pg_temp.plan('SELECT * FROM anyvod_expiring WHERE expires_in < ''1 day''') p (scan) WHERE scan IS NOT NULL;
SELECT scan FROM pg_temp.plan('SELECT * FROM anyvod_dashboard') p (scan) WHERE scan IS NOT NULL ORDER BY 1;
ROLLBACK;

--
-- Why a row waits: its server is paused, for its mapping; nobody asks
--
CREATE SERVER regress_looks_limit FOREIGN DATA WRAPPER anyvod OPTIONS (base_url :'base_url', rate_limit '1000');
GRANT USAGE ON FOREIGN SERVER regress_looks_limit TO regress_looks_b;
INSERT INTO anyvod_tasks (task_id, server, owner) VALUES ('http429-ra3600-looks', 'regress_looks_limit', 'regress_looks_b'),
	('http503-looks', 'anyapi', 'regress_looks_b'), ('http401-looks', 'regress_looks_bumpy', 'regress_looks_a'),
	('t3600000-jump30-looks', 'regress_looks_bumpy', 'regress_looks_b');
-- the mapping of one role is refused, that of the other works
CALL regress_helpers.wait_for($$count(*) = 1 FROM anyvod_dashboard
	WHERE why ~ '^server paused until \d\d:\d\d:\d\d: rate_limited$' AND task_id = 'http429-ra3600-looks'$$);
CALL regress_helpers.wait_for($$count(*) = 1 FROM anyvod_dashboard
	WHERE why ~ '^server paused until \d\d:\d\d:\d\d: auth$' AND task_id = 'http401-looks'$$);
CALL regress_helpers.wait_for($$count(*) = 1 FROM anyvod_dashboard
	WHERE why ~ '^no response yet; server error: transient HTTP 503$' AND task_id = 'http503-looks'$$);
CALL regress_helpers.wait_for($$bar = '██████░░░░░░░░░░░░░░  30 %' AND why IS NULL FROM anyvod_dashboard WHERE task_id = 't3600000-jump30-looks'$$);
ALTER SYSTEM SET anyvod.worker = off;
SELECT pg_reload_conf();
-- this session takes the setting before its next command, as the worker did
CALL regress_helpers.wait_for($$NOT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'anyvod worker' AND datname = current_database())$$);
SELECT DISTINCT why FROM anyvod_dashboard;
ALTER SYSTEM RESET anyvod.worker;
SELECT pg_reload_conf();
DELETE FROM anyvod_tasks;
DROP SERVER regress_looks_bumpy CASCADE;
DROP SERVER regress_looks_limit;
DROP SERVER anyapi CASCADE;
DROP SCHEMA regress_helpers CASCADE;
DROP ROLE regress_looks_a, regress_looks_b;
