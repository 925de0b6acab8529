--
-- The extension's script and the library can be of different versions: what
-- does not fit is an error that says so, never a crash.
--
\t on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS anyvod;
CREATE SERVER anyapi FOREIGN DATA WRAPPER anyvod OPTIONS (base_url 'http://127.0.0.1:1');
SELECT probin FROM pg_proc WHERE proname = 'anyvod_query' \gset

-- a function's source without its body, and a call; gives what it raised
CREATE FUNCTION raises(source text, symbol text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE format('CREATE %s LANGUAGE C AS %L, %L', source,
		(SELECT probin FROM pg_proc WHERE proname = 'anyvod_query'), symbol);
	EXECUTE call;
	RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN format('%s: %s%s', SQLSTATE, SQLERRM,
		CASE WHEN hint LIKE '%ALTER EXTENSION anyvod UPDATE%' THEN ' (update)' END);
END $$;

CREATE TYPE fewer AS (status text, progress integer, file_url text, expire_time timestamptz,
	state anyvod_state, error_code text);
CREATE TYPE swapped AS (progress integer, status text, file_url text, expire_time timestamptz,
	state anyvod_state, error_code text, error_message text);
CREATE TYPE stateless AS (status text, progress integer, file_url text, expire_time timestamptz,
	state text, error_code text, error_message text);
CREATE TYPE dropped AS (status text, progress integer, file_url text, expire_time timestamptz,
	state anyvod_state, error_code text, error_message text);
ALTER TYPE dropped DROP ATTRIBUTE file_url;

-- the same symbols, declared otherwise
SELECT symbol, source, raises('FUNCTION f' || source, symbol, call) FROM (VALUES
	('anyvod_query', '(text) RETURNS jsonb STRICT', 'SELECT f(''a'')'),
	('anyvod_query', '() RETURNS jsonb STRICT', 'SELECT f()'),
	('anyvod_query', '(text, name, integer) RETURNS jsonb STRICT', 'SELECT f(''a'', ''anyapi'', 1)'),
	('anyvod_query', '(integer, name) RETURNS jsonb STRICT', 'SELECT f(1, ''anyapi'')'),
	('anyvod_query', '(text, text) RETURNS jsonb STRICT', 'SELECT f(''a'', ''anyapi'')'),
	('anyvod_query', '(text, name) RETURNS text STRICT', 'SELECT f(''a'', ''anyapi'')'),
	('anyvod_query', '(text, name) RETURNS jsonb', 'SELECT f(NULL, NULL)'),
	('anyvod_status', '(name, text) RETURNS anyvod_result STRICT', 'SELECT f(''a'', ''anyapi'')'),
	('anyvod_status', '(text, name) RETURNS integer STRICT', 'SELECT f(''a'', ''anyapi'')'),
	('anyvod_query_many', '(text, name) RETURNS SETOF record STRICT', 'SELECT f(''a'', ''anyapi'')'),
	('anyvod_query_many', '(text[], name, OUT a text, OUT b jsonb, OUT c text, OUT d integer) RETURNS SETOF record STRICT',
		'SELECT f(''{a}'', ''anyapi'')'),
	('anyvod_query_many', '(text[], name, OUT a text, OUT b jsonb) RETURNS SETOF record STRICT',
		'SELECT f(''{a}'', ''anyapi'')'),
	('anyvod_parse', '(text) RETURNS anyvod_result STRICT', 'SELECT f(''{}'')'),
	('anyvod_parse', '(jsonb) RETURNS fewer STRICT', 'SELECT f(''{}'')'),
	('anyvod_parse', '(jsonb) RETURNS swapped STRICT', 'SELECT f(''{}'')'),
	('anyvod_parse', '(jsonb) RETURNS stateless STRICT', 'SELECT f(''{}'')'),
	('anyvod_parse', '(jsonb) RETURNS dropped STRICT', 'SELECT f(''{}'')'),
	('anyvod_parse', '(jsonb) RETURNS text STRICT', 'SELECT f(''{}'')'),
	('anyvod_files', '(text) RETURNS SETOF record STRICT', 'SELECT * FROM f(''{}'') AS f (a text)'),
	('anyvod_files', '(jsonb, OUT a text, OUT b text, OUT c text, OUT d text, OUT e text, OUT f text, OUT g text) RETURNS SETOF record STRICT',
		'SELECT f(''{"Response": {"TaskType": "X", "X": {"Status": "FINISH", "Output": {"FileUrl": "http://a"}}}}'')'),
	('anyvod_wait', '(text, name) RETURNS anyvod_result STRICT', 'SELECT f(''a'', ''anyapi'')'),
	('anyvod_wait', '(text, integer, name) RETURNS anyvod_result STRICT', 'SELECT f(''a'', 1, ''anyapi'')'),
	('anyvod_wait', '(text, interval, name) RETURNS stateless STRICT', 'SELECT f(''a'', ''1 s'', ''anyapi'')'),
	('anyvod_bar', '(integer) RETURNS text STRICT', 'SELECT f(1)'),
	('anyvod_bar', '(integer, text) RETURNS text STRICT', 'SELECT f(1, ''a'')'),
	('anyvod_bar', '(integer, integer) RETURNS integer STRICT', 'SELECT f(1, 1)'),
	('anyvod_wake', '() RETURNS text', 'SELECT f()'),
	('anyvod_wake', '(text) RETURNS void', 'SELECT f(NULL)'),
	('anyvod_stat_reset', '() RETURNS text', 'SELECT f()'),
	('anyvod_stat_get_servers', '(OUT server name, OUT state text) RETURNS SETOF record', 'SELECT f()'),
	('anyvod_stat_get_workers', '(OUT datid oid, OUT state text) RETURNS SETOF record', 'SELECT f()'),
	('anyvod_stat_get_workers', '() RETURNS SETOF anyvod_stat_worker', 'SELECT f()'),
	('anyvod_stat_get_servers', '() RETURNS SETOF integer', 'SELECT f()'),
	('anyvod_fdw_validator', '(text, oid) RETURNS void STRICT', 'SELECT f(''a'', 1)'),
	('anyvod_fdw_validator', '(text[]) RETURNS void STRICT', 'SELECT f(''{a=b}'')'),
	('anyvod_tasks_changed', '() RETURNS integer', 'SELECT f()'),
	('anyvod_tasks_turned', '(integer) RETURNS integer', 'SELECT f(1)')
) AS v (symbol, source, call);
-- a procedure commits, so it is called from the top
CREATE PROCEDURE wait_all(text[]) LANGUAGE C AS :'probin', 'anyvod_wait_all';
CALL wait_all('{a}');
CREATE PROCEDURE wait_all(text, interval) LANGUAGE C AS :'probin', 'anyvod_wait_all';
CALL wait_all('a', '1 s');
CREATE PROCEDURE wait_all(text[], integer) LANGUAGE C AS :'probin', 'anyvod_wait_all';
CALL wait_all('{a}', 1);
-- a symbol that another version has
\set VERBOSITY sqlstate
CREATE FUNCTION newer() RETURNS void LANGUAGE C AS :'probin', 'anyvod_newer';
\set VERBOSITY default
-- nothing has crashed in between
SELECT state FROM anyvod_parse('{"Response": {"Status": "PROCESSING", "TaskType": "X", "X": {}}}');

-- the types that the functions give
BEGIN;
ALTER TYPE anyvod_result ADD ATTRIBUTE later text;
SELECT state FROM anyvod_parse('{}');
ROLLBACK;
BEGIN;
ALTER TYPE anyvod_result DROP ATTRIBUTE error_code;
SELECT state FROM anyvod_parse('{}');
ROLLBACK;
BEGIN;
ALTER TYPE anyvod_result ALTER ATTRIBUTE progress TYPE numeric;
SELECT state FROM anyvod_wait('a', '1 s');
ROLLBACK;
BEGIN;
ALTER TYPE anyvod_state RENAME VALUE 'failed' TO 'lost';
SELECT state FROM anyvod_parse('{"Response": {"Status": "ABORTED", "TaskType": "X", "X": {}}}');
ROLLBACK;

-- the table's columns are found by name
BEGIN;
ALTER EXTENSION anyvod DROP VIEW anyvod_dashboard;
ALTER EXTENSION anyvod DROP VIEW anyvod_expiring;
DROP VIEW anyvod_dashboard, anyvod_expiring;
INSERT INTO anyvod_tasks (task_id, state) VALUES ('a', 'succeeded');
ALTER TABLE anyvod_tasks DROP COLUMN model, ADD COLUMN model text, ADD COLUMN later integer DEFAULT 7;
UPDATE anyvod_tasks SET file_url = 'x', model = 'y' WHERE task_id = 'a';
UPDATE anyvod_tasks SET state = 'pending' WHERE task_id = 'a';
SELECT state, file_url, model, later FROM anyvod_tasks;
ALTER TABLE anyvod_tasks DROP COLUMN response;
UPDATE anyvod_tasks SET state = 'failed' WHERE task_id = 'a';
UPDATE anyvod_tasks SET state = 'pending' WHERE task_id = 'a';
ROLLBACK;

DROP FUNCTION raises;
DROP PROCEDURE wait_all(text[]);
DROP PROCEDURE wait_all(text, interval);
DROP PROCEDURE wait_all(text[], integer);
DROP TYPE fewer, swapped, stateless, dropped;
DROP SERVER anyapi;
