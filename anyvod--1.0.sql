/* anyvod--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION anyvod" to load this file. \quit

--
-- Where to ask and as whom
--

CREATE FUNCTION @extschema@.anyvod_fdw_validator(options text[], catalog oid)
RETURNS void
LANGUAGE C STRICT
AS 'MODULE_PATHNAME';

CREATE FOREIGN DATA WRAPPER anyvod
    NO HANDLER VALIDATOR @extschema@.anyvod_fdw_validator;

COMMENT ON FOREIGN DATA WRAPPER anyvod IS
    'AnyAPI gateways: a server says where to ask, a user mapping with which key';

--
-- Types
--

CREATE TYPE @extschema@.anyvod_state AS ENUM
    ('pending', 'succeeded', 'failed', 'abandoned');

COMMENT ON TYPE @extschema@.anyvod_state IS
    'what has become of a generation task';

CREATE TYPE @extschema@.anyvod_result AS (
    status          text,
    progress        integer,
    file_url        text,
    expire_time     timestamptz,
    state           @extschema@.anyvod_state,
    error_code      text,
    error_message   text
);

COMMENT ON TYPE @extschema@.anyvod_result IS
    'what an answer says about a generation task';

--
-- Asking now.  USAGE on the server is the gate, so EXECUTE stays with PUBLIC.
--

CREATE FUNCTION @extschema@.anyvod_query(task_id text,
                                         server name DEFAULT 'anyapi')
RETURNS jsonb
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 10000
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_query(text, name) IS
    'asks the gateway about a task and returns its answer';

CREATE FUNCTION @extschema@.anyvod_status(task_id text,
                                          server name DEFAULT 'anyapi')
RETURNS @extschema@.anyvod_result
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 10000
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_status(text, name) IS
    'asks the gateway about a task and returns what matters of its answer';

CREATE FUNCTION @extschema@.anyvod_query_many(task_ids text[],
                                              server name DEFAULT 'anyapi',
                                              OUT task_id text,
                                              OUT response jsonb,
                                              OUT error_code text,
                                              OUT error_message text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 10000 ROWS 100
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_query_many(text[], name) IS
    'asks the gateway about many tasks at once and returns the answers as they arrive';

--
-- Reading answers that are at hand
--

CREATE FUNCTION @extschema@.anyvod_parse(response jsonb)
RETURNS @extschema@.anyvod_result
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_parse(jsonb) IS
    'what an answer says about its task';

CREATE FUNCTION @extschema@.anyvod_files(response jsonb,
                                         OUT ordinal integer,
                                         OUT file_url text,
                                         OUT expire_time timestamptz,
                                         OUT file_type text,
                                         OUT storage_mode text,
                                         OUT file_id text,
                                         OUT media_name text)
RETURNS SETOF record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20 ROWS 2
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_files(jsonb) IS
    'the files that an answer names';

--
-- Tracking
--

-- An id has 1 to 256 characters of some kinds and is neither . nor ..; each
-- write of a row reads the CHECK from the catalog, so it is a short one.
CREATE TABLE @extschema@.anyvod_tasks (
    task_id         text        PRIMARY KEY
        CONSTRAINT anyvod_tasks_task_id_check
        CHECK (length(task_id) <= 256
               AND task_id !~ '^\.{0,2}$|[^0-9A-Za-z_.-]'),
    server          name        NOT NULL DEFAULT 'anyapi',
    owner           name        NOT NULL DEFAULT current_user,
    state           @extschema@.anyvod_state NOT NULL DEFAULT 'pending',
    status          text,
    progress        integer,
    file_url        text,
    expire_time     timestamptz,
    task_type       text,
    model           text,
    error_code      text,
    error_message   text,
    response        jsonb,
    polls           integer     NOT NULL DEFAULT 0,
    started_at      timestamptz,
    ended_at        timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz,
    settled_at      timestamptz
) WITH (fillfactor = 70);

-- For scans of pending rows, page by page, the newest first.  As what a poll
-- changes is in no index, an update of a pending row is HOT.
CREATE INDEX anyvod_tasks_pending
    ON @extschema@.anyvod_tasks (created_at, task_id)
    WHERE state = 'pending';

-- For retention, page by page in this order, and for what is learned from the
-- latest settled rows.
CREATE INDEX anyvod_tasks_settled ON @extschema@.anyvod_tasks (settled_at, task_id)
    WHERE state <> 'pending';

-- For results whose URL will die.
CREATE INDEX anyvod_tasks_expiring ON @extschema@.anyvod_tasks (expire_time)
    WHERE state = 'succeeded' AND expire_time < 'infinity';

-- The worker writes as the table's owner; a superuser's triggers would run as
-- superuser, a database owner's do not.  The owner must be able to use the
-- schema.  That is not granted here, since a GRANT by an extension's script
-- makes pg_dump leave all grants on the schema out; who inserts is told.
ALTER TABLE @extschema@.anyvod_tasks OWNER TO pg_database_owner;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.anyvod_tasks', '');

COMMENT ON TABLE @extschema@.anyvod_tasks IS
    'generation tasks; insert a task_id, a background worker fills in the row';
COMMENT ON COLUMN @extschema@.anyvod_tasks.task_id IS
    'the id that the gateway gave when the task was created';
COMMENT ON COLUMN @extschema@.anyvod_tasks.server IS
    'the foreign server to ask';
COMMENT ON COLUMN @extschema@.anyvod_tasks.owner IS
    'the role with whose user mapping it is asked';
COMMENT ON COLUMN @extschema@.anyvod_tasks.state IS
    'pending until the task has ended or was given up';
COMMENT ON COLUMN @extschema@.anyvod_tasks.status IS
    'the upstream''s word: WAITING, PROCESSING, FINISH, ABORTED';
COMMENT ON COLUMN @extschema@.anyvod_tasks.progress IS
    'percent';
COMMENT ON COLUMN @extschema@.anyvod_tasks.file_url IS
    'the result; anyvod_files(response) lists all of them';
COMMENT ON COLUMN @extschema@.anyvod_tasks.expire_time IS
    'when file_url dies';
COMMENT ON COLUMN @extschema@.anyvod_tasks.task_type IS
    'AigcImageTask, AigcVideoTask, ...';
COMMENT ON COLUMN @extschema@.anyvod_tasks.model IS
    'model name and version';
COMMENT ON COLUMN @extschema@.anyvod_tasks.error_code IS
    'of a failed task, or of the row''s own trouble while it is pending';
COMMENT ON COLUMN @extschema@.anyvod_tasks.error_message IS
    'what belongs to error_code';
COMMENT ON COLUMN @extschema@.anyvod_tasks.response IS
    'the final answer; null if it is larger than 1 MB';
COMMENT ON COLUMN @extschema@.anyvod_tasks.polls IS
    'how often it was asked, as of the last write';
COMMENT ON COLUMN @extschema@.anyvod_tasks.started_at IS
    'the upstream''s CreateTime';
COMMENT ON COLUMN @extschema@.anyvod_tasks.ended_at IS
    'the upstream''s FinishTime';
COMMENT ON COLUMN @extschema@.anyvod_tasks.created_at IS
    'when the row was inserted';
COMMENT ON COLUMN @extschema@.anyvod_tasks.updated_at IS
    'when the worker last wrote the row, or it was set back to pending';
COMMENT ON COLUMN @extschema@.anyvod_tasks.settled_at IS
    'when the row left pending';

-- Each role sees and writes its own rows, and asks only servers that it may
-- use.  TRIGGER, REFERENCES and TRUNCATE are for those whom the owner trusts.
ALTER TABLE @extschema@.anyvod_tasks ENABLE ROW LEVEL SECURITY;

CREATE POLICY anyvod_tasks_own ON @extschema@.anyvod_tasks
    USING (owner = current_user)
    WITH CHECK (owner = current_user
                AND pg_catalog.has_server_privilege(server, 'USAGE'));

GRANT SELECT, INSERT, UPDATE, DELETE ON @extschema@.anyvod_tasks TO PUBLIC;

-- Noticing work, in sessions and where logical replication applies changes.
CREATE FUNCTION @extschema@.anyvod_tasks_changed()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME';
REVOKE EXECUTE ON FUNCTION @extschema@.anyvod_tasks_changed() FROM PUBLIC;

CREATE TRIGGER anyvod_tasks_changed
    AFTER INSERT OR UPDATE OF task_id, state, server, owner
    ON @extschema@.anyvod_tasks
    FOR EACH ROW EXECUTE FUNCTION @extschema@.anyvod_tasks_changed();
ALTER TABLE @extschema@.anyvod_tasks
    ENABLE ALWAYS TRIGGER anyvod_tasks_changed;

-- A row that is to be polled again starts anew; one that a user settles, or
-- inserts as settled, gets its settled_at.  Which rows those are the function finds out.
CREATE FUNCTION @extschema@.anyvod_tasks_turned()
RETURNS trigger
LANGUAGE C
AS 'MODULE_PATHNAME';
REVOKE EXECUTE ON FUNCTION @extschema@.anyvod_tasks_turned() FROM PUBLIC;

CREATE TRIGGER anyvod_tasks_turned
    BEFORE INSERT OR UPDATE OF task_id, state, server, owner
    ON @extschema@.anyvod_tasks
    FOR EACH ROW EXECUTE FUNCTION @extschema@.anyvod_tasks_turned();

CREATE FUNCTION @extschema@.anyvod_wake()
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_wake() IS
    'makes the worker of this database look for pending tasks at commit';

--
-- Statistics.  The functions show no more than the caller may see, so the
-- views on them are for everybody.
--

CREATE FUNCTION @extschema@.anyvod_stat_get_workers(
    OUT datid oid, OUT pid integer, OUT state text, OUT hint text,
    OUT pending bigint, OUT oldest_due timestamptz, OUT in_flight bigint,
    OUT polls bigint, OUT changes_written bigint, OUT unchanged bigint,
    OUT request_p50_ms double precision, OUT request_p95_ms double precision,
    OUT request_p99_ms double precision,
    OUT detection_p50_ms double precision,
    OUT detection_p95_ms double precision,
    OUT last_error text, OUT last_error_at timestamptz, OUT restarts bigint,
    OUT started_at timestamptz, OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 4
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_stat_get_workers() IS
    'what anyvod_stat_worker shows';

CREATE VIEW @extschema@.anyvod_stat_worker WITH (security_invoker = true) AS
    SELECT d.datname, w.pid, w.state, w.hint, w.pending, w.oldest_due,
           w.in_flight, w.polls, w.changes_written, w.unchanged,
           w.request_p50_ms, w.request_p95_ms, w.request_p99_ms,
           w.detection_p50_ms, w.detection_p95_ms,
           w.last_error, w.last_error_at, w.restarts, w.started_at,
           w.stats_reset
    FROM @extschema@.anyvod_stat_get_workers() AS w
         JOIN pg_catalog.pg_database AS d ON d.oid = w.datid;

COMMENT ON VIEW @extschema@.anyvod_stat_worker IS
    'how each database is served; one row a database';

CREATE FUNCTION @extschema@.anyvod_stat_get_servers(
    OUT server name, OUT mapped_role name, OUT state text,
    OUT paused_until timestamptz, OUT paused_why text,
    OUT requests bigint, OUT in_flight integer,
    OUT running bigint, OUT succeeded bigint,
    OUT failed bigint, OUT no_output bigint, OUT auth bigint,
    OUT rate_limited bigint, OUT unknown_task bigint, OUT transient bigint,
    OUT rejected bigint, OUT unreadable bigint, OUT no_response bigint,
    OUT connections bigint,
    OUT last_error text, OUT last_error_detail text,
    OUT last_error_at timestamptz)
RETURNS SETOF record
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 4
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_stat_get_servers() IS
    'what anyvod_stat_server shows';

CREATE VIEW @extschema@.anyvod_stat_server WITH (security_invoker = true) AS
    SELECT server, mapped_role, state, paused_until, paused_why, requests,
           in_flight, running, succeeded, failed, no_output, auth,
           rate_limited, unknown_task, transient, rejected, unreadable,
           no_response, connections, last_error, last_error_detail,
           last_error_at
    FROM @extschema@.anyvod_stat_get_servers();

COMMENT ON VIEW @extschema@.anyvod_stat_server IS
    'how servers do that the worker of this database has polled; one row for each server and user mapping';

GRANT SELECT ON @extschema@.anyvod_stat_worker,
    @extschema@.anyvod_stat_server TO PUBLIC;

CREATE FUNCTION @extschema@.anyvod_stat_get_schedules(
    OUT datid oid, OUT server text, OUT task_type text, OUT model text,
    OUT ended bigint, OUT running bigint,
    OUT duration_p50_ms double precision, OUT duration_p95_ms double precision)
RETURNS SETOF record
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 8
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_stat_get_schedules() IS
    'what anyvod_stat_schedule shows';

CREATE VIEW @extschema@.anyvod_stat_schedule WITH (security_invoker = true) AS
    SELECT d.datname, s.server, s.task_type, s.model, s.ended, s.running,
           s.duration_p50_ms, s.duration_p95_ms
    FROM @extschema@.anyvod_stat_get_schedules() AS s
         JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;

COMMENT ON VIEW @extschema@.anyvod_stat_schedule IS
    'what was learned of how long tasks take; one row for each server, task type and model';

GRANT SELECT ON @extschema@.anyvod_stat_schedule TO PUBLIC;

CREATE FUNCTION @extschema@.anyvod_forecast_of(
    server name, task_type text, model text, started_at timestamptz,
    OUT elapsed interval, OUT remaining interval, OUT remaining_p90 interval,
    OUT learned_from double precision)
RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_forecast_of(name, text, text, timestamptz) IS
    'how long a task that was started then has been running, and probably will';

-- Its body is a string, so that the table's owner can alter the columns.
CREATE FUNCTION @extschema@.anyvod_forecast(
    task_id text,
    OUT elapsed interval, OUT remaining interval, OUT remaining_p90 interval,
    OUT learned_from double precision)
RETURNS record
LANGUAGE SQL VOLATILE PARALLEL RESTRICTED
AS $$
    SELECT f.elapsed, f.remaining, f.remaining_p90, f.learned_from
    FROM @extschema@.anyvod_tasks AS t,
         @extschema@.anyvod_forecast_of(t.server,
                                        COALESCE(t.task_type, ''),
                                        COALESCE(t.model, ''),
                                        t.started_at) AS f
    WHERE t.task_id OPERATOR(pg_catalog.=) $1
          AND t.state::pg_catalog.text OPERATOR(pg_catalog.=) 'pending'
$$;

COMMENT ON FUNCTION @extschema@.anyvod_forecast(text) IS
    'how long a pending task has been running, and how much longer half of its kind do';

-- As pg_stat_reset(): for superusers, and for those to whom they grant it.
CREATE FUNCTION @extschema@.anyvod_stat_reset()
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME';
REVOKE EXECUTE ON FUNCTION @extschema@.anyvod_stat_reset() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.anyvod_stat_reset() IS
    'sets the figures of this database to zero';

--
-- Waiting
--

CREATE FUNCTION @extschema@.anyvod_wait(task_id text,
                                        timeout interval DEFAULT '10 minutes',
                                        server name DEFAULT 'anyapi')
RETURNS @extschema@.anyvod_result
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 10000
AS 'MODULE_PATHNAME';

COMMENT ON FUNCTION @extschema@.anyvod_wait(text, interval, name) IS
    'waits until a task has ended and returns what became of it';

CREATE PROCEDURE @extschema@.anyvod_wait_all(task_ids text[], timeout interval)
LANGUAGE C
AS 'MODULE_PATHNAME';

COMMENT ON PROCEDURE @extschema@.anyvod_wait_all(text[], interval) IS
    'waits until the rows of tracked tasks have left pending';

--
-- Looking instead of reading
--

-- By number, as a character that the database's encoding lacks could not be
-- written here.
CREATE FUNCTION @extschema@.anyvod_bar(progress integer,
                                       width integer DEFAULT 20)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT repeat(chr(CASE WHEN utf8 THEN 9608 ELSE ascii('#') END), filled)
               || repeat(chr(CASE WHEN utf8 THEN 9617 ELSE ascii('.') END), size - filled)
        FROM (SELECT LEAST(GREATEST(width, 0), 1000) AS size,
                     LEAST(GREATEST(width, 0), 1000)
                     * LEAST(GREATEST(progress, 0), 100) / 100 AS filled,
                     getdatabaseencoding() = 'UTF8' AS utf8) AS bar);

COMMENT ON FUNCTION @extschema@.anyvod_bar(integer, integer) IS
    'a percentage as a bar';

-- A filter on expires_in may be looked at before the view's own condition,
-- and before PostgreSQL 17 nothing can be taken from infinity.
CREATE VIEW @extschema@.anyvod_expiring WITH (security_invoker = true) AS
    SELECT t.task_id, t.server, t.owner, t.model, t.file_url, t.expire_time,
           CASE WHEN pg_catalog.isfinite(t.expire_time)
                THEN t.expire_time - pg_catalog.now() END AS expires_in
    FROM @extschema@.anyvod_tasks AS t
    WHERE t.state = 'succeeded' AND t.file_url IS NOT NULL
          AND t.expire_time < 'infinity'
          AND t.expire_time > pg_catalog.now();

COMMENT ON VIEW @extschema@.anyvod_expiring IS
    'results whose URL will die; expires_in says how soon';

-- What is pending, what was settled in the last ten minutes, and what expires
-- within a day.
CREATE VIEW @extschema@.anyvod_dashboard WITH (security_invoker = true) AS
    SELECT t.task_id, t.model,
           CASE WHEN t.state IN ('pending', 'succeeded')
                THEN @extschema@.anyvod_bar(p.progress)
                     || pg_catalog.lpad(p.progress::text, 4) || ' %'
           END AS bar,
           t.state,
           pg_catalog.date_trunc('second', GREATEST('0',
               COALESCE(t.ended_at, t.settled_at, pg_catalog.now())
               - COALESCE(t.started_at, t.created_at))) AS elapsed,
           -- of fewer tasks than that, what is assumed counts for too much
           CASE WHEN t.state = 'pending' AND t.started_at IS NOT NULL
                THEN (SELECT pg_catalog.date_trunc('second', f.remaining)
                      FROM @extschema@.anyvod_forecast_of(
                               t.server, COALESCE(t.task_type, ''),
                               COALESCE(t.model, ''), t.started_at) AS f
                      WHERE f.learned_from >= 8)
           END AS time_left,
           pg_catalog.regexp_replace(
               pg_catalog.regexp_replace(t.file_url, '[?#].*', ''),
               '^.*/', '') AS file,
           CASE WHEN t.state = 'succeeded'
                     AND pg_catalog.isfinite(t.expire_time)
                THEN pg_catalog.date_trunc('second',
                         t.expire_time - pg_catalog.now())
           END AS expires_in,
           pg_catalog.left(CASE
               WHEN t.error_code IS NOT NULL
               THEN pg_catalog.concat_ws(': ', t.error_code, t.error_message)
               WHEN t.state <> 'pending' THEN NULL
               WHEN w.state IS NULL
               THEN 'nobody polls: is anyvod preloaded?'
               WHEN w.state NOT IN ('starting', 'serving', 'idle', 'ended')
               THEN 'worker: ' || w.state
               WHEN s.state = 'paused'
               THEN 'server paused until '
                    || pg_catalog.to_char(s.paused_until, 'HH24:MI:SS')
                    || ': ' || s.paused_why
               WHEN t.status IS NULL
                    AND s.last_error_at
                        > pg_catalog.now() - interval '1 minute'
               THEN pg_catalog.concat_ws(' ',
                        'no response yet; server error:',
                        s.last_error, s.last_error_detail)
               WHEN t.status IS NULL THEN 'no response yet'
               WHEN pg_catalog.lower(t.status) = 'waiting'
               THEN 'in the gateway''s queue'
           END, 60) AS why
    FROM @extschema@.anyvod_tasks AS t
         CROSS JOIN LATERAL (
             SELECT CASE WHEN t.state = 'succeeded' THEN 100
                         ELSE GREATEST(0, LEAST(100, COALESCE(t.progress, 0)))
                    END) AS p (progress)
         LEFT JOIN (
             SELECT state FROM @extschema@.anyvod_stat_worker
             WHERE datname = pg_catalog.current_database()) AS w ON true
         LEFT JOIN pg_catalog.pg_user_mappings AS m
             ON m.srvname = t.server AND m.usename = t.owner
         LEFT JOIN (
             SELECT DISTINCT ON (server, role) *,
                    COALESCE(mapped_role, 'public') AS role
             FROM @extschema@.anyvod_stat_server
             ORDER BY server, role, paused_until DESC NULLS LAST) AS s
             ON s.server = t.server
                AND s.role = COALESCE(m.usename, 'public')
    WHERE t.state = 'pending'
          OR (t.state <> 'pending'
              AND t.settled_at > pg_catalog.now() - interval '10 minutes')
          OR (t.state = 'succeeded' AND t.file_url IS NOT NULL
              AND t.expire_time < 'infinity'
              AND t.expire_time > pg_catalog.now()
              AND t.expire_time < pg_catalog.now() + interval '1 day')
    ORDER BY t.state <> 'pending', t.settled_at DESC, t.created_at, t.task_id;

COMMENT ON VIEW @extschema@.anyvod_dashboard IS
    'how tasks do, for \watch in psql';

GRANT SELECT ON @extschema@.anyvod_expiring, @extschema@.anyvod_dashboard
    TO PUBLIC;
