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

-- a symbol that another version has
\set VERBOSITY sqlstate
CREATE FUNCTION newer() RETURNS void LANGUAGE C AS :'probin', 'anyvod_newer';
\set VERBOSITY default
-- nothing has crashed in between
SELECT state FROM anyvod_parse('{"Response": {"Status": "PROCESSING", "TaskType": "X", "X": {}}}');

-- a result that was given other columns
BEGIN;
ALTER TYPE anyvod_result ADD ATTRIBUTE later text;
SELECT state FROM anyvod_parse('{}');
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

DROP SERVER anyapi;
