--
-- Servers and user mappings: options, privileges, files.  No request leaves:
-- what can be reached is port 1 of this machine, where nobody listens.
--
\t on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS anyvod;

CREATE ROLE regress_upstream_owner;
CREATE ROLE regress_upstream_reader;
CREATE ROLE regress_upstream_user;
GRANT pg_read_server_files TO regress_upstream_reader;
GRANT USAGE ON FOREIGN DATA WRAPPER anyvod TO regress_upstream_owner;

\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.psql'
\i :helpers

-- what a new server with this one option raises
CREATE FUNCTION pg_temp.server(option text, value text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	result := regress_helpers.trouble(format(
		'CREATE SERVER upstream_try FOREIGN DATA WRAPPER anyvod OPTIONS (%I %L)',
		option, value));
	DROP SERVER IF EXISTS upstream_try;
	RETURN result;
END $$;

-- the SQLSTATE of a request: HV00N if all was well up to the connection
CREATE FUNCTION pg_temp.request(server name) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	RETURN split_part(regress_helpers.trouble(
		format('SELECT anyvod_query(%L, %L)', 'task-1', server)), ' ', 1);
END $$;

--
-- Server options
--
SELECT value || ': ' || pg_temp.server('timeout', value)
FROM unnest('{1,30s,1d,86400000,0,-1,86400001,25h,"",abc,30 parsecs,1e99}'::text[])
	WITH ORDINALITY v(value, n) ORDER BY n;
SELECT value || ': ' || pg_temp.server('connect_timeout', value)
FROM unnest('{500,5s,0,2d}'::text[]) WITH ORDINALITY v(value, n) ORDER BY n;
SELECT value || ': ' || pg_temp.server('rate_limit', value)
FROM unnest('{50,0.5,0.001,100000,0,-1,0.0001,100001,nan,inf,fast}'::text[])
	WITH ORDINALITY v(value, n) ORDER BY n;
SELECT value || ': ' || pg_temp.server('max_concurrency', value)
FROM unnest('{1,10000,0,10001,many}'::text[])
	WITH ORDINALITY v(value, n) ORDER BY n;
SELECT value || ': ' || pg_temp.server('max_response_size', value)
FROM unnest('{1024,1kB,16MB,64MB,1023,65MB,1GB,16 mb}'::text[])
	WITH ORDINALITY v(value, n) ORDER BY n;

-- base URLs that are taken
SELECT value || ': ' || pg_temp.server('base_url', value)
FROM unnest('{https://www.anyapi.vip,https://gateway.example:8443/v1/,HTTPS://EXAMPLE.COM,
	https://host_1.internal.,https://[2001:db8::1]:443/,https://10.0.0.1/a%2Fb//,
	https://example.com/@me,http://localhost:8080,http://api.LocalHost,
	http://127.0.0.1:1,http://127.255.0.9,"http://[::1]:8080/x"}'::text[])
	WITH ORDINALITY v(value, n) ORDER BY n;

-- base URLs that are taken with a warning: the key would be readable
SELECT value || ': ' || pg_temp.server('base_url', value)
FROM unnest('{http://www.anyapi.vip,http://127.0.0.1.example.com,http://localhost.example.com,
	http://xlocalhost,http://128.0.0.1,http://[::2],http://0x7f.1}'::text[])
	WITH ORDINALITY v(value, n) ORDER BY n;

-- base URLs that are refused, none of them quoted
SELECT to_json(value) || ': ' || pg_temp.server('base_url', value)
FROM unnest(ARRAY['', 'www.anyapi.vip', '//www.anyapi.vip', 'ftp://example.com',
	'file:///etc/passwd', 'https:example.com', ' https://example.com',
	'https://', 'https:///path', 'https://:443', 'https://user@example.com',
	'https://user:hunter2@example.com/', 'https://@example.com',
	'https://example.com?a=b', 'https://example.com/?', 'https://example.com/#x',
	'https://example.com#@other.example', 'https://exa mple.com',
	'https://example.com/a b', E'https://example.com/a\tb',
	E'https://example.com\r\nX: y', 'https://example.com\other.example',
	'https://example.com/a\b', 'https://example.com/"', 'https://b%c3%bccher.example',
	'https://example.com/%zz', 'https://example.com/%2', 'https://.example.com',
	'https://a..example', 'https://example.com:', 'https://example.com:0',
	'https://example.com:65536', 'https://example.com:4294967739',
	'https://example.com:80:80', 'https://example.com:8x', 'https://[::1',
	'https://[::1]x', 'https://[]', 'https://[1.2.3.4]', 'https://[fe80::1%25eth0]',
	'https://::1'])
	WITH ORDINALITY v(value, n) ORDER BY n;
SELECT pg_temp.server('base_url', 'https://example.com/' || chr(233)) ~ '^22023 ' AS not_ascii;
SELECT pg_temp.server('base_url', 'https://' || repeat('a', 253)) = 'ok',
	pg_temp.server('base_url', 'https://' || repeat('a', 254)),
	pg_temp.server('base_url', 'https://a/' || repeat('b', 2038)) = 'ok',
	pg_temp.server('base_url', 'https://a/' || repeat('b', 2039));
SELECT bool_or(position('hunter2' in pg_temp.server(option, value)) > 0) AS leaks
FROM unnest('{base_url,proxy}'::text[]) option,
	unnest('{https://u:hunter2@h/,https://u:hunter2@h?x,ftp://u:hunter2@h,
	"https://u:hunter2@h\\",https://u:hunter2@h:0}'::text[]) value;

-- proxies
SELECT value || ': ' || pg_temp.server('proxy', value)
FROM unnest('{http://proxy.example.com:3128,https://10.0.0.1:443/,
	http://proxy.example.com,http://proxy.example.com:3128/x,
	http://user:hunter2@proxy.example.com:3128,socks5://proxy.example.com:1080}'::text[])
	WITH ORDINALITY v(value, n) ORDER BY n;
CREATE SERVER upstream_try FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://localhost', proxy 'http://proxy.example.com:3128');
CREATE SERVER upstream_try FOREIGN DATA WRAPPER anyvod
	OPTIONS (proxy 'http://proxy.example.com:3128');
ALTER SERVER upstream_try OPTIONS (ADD base_url 'http://localhost');
ALTER SERVER upstream_try OPTIONS (DROP proxy, ADD base_url 'http://localhost');
DROP SERVER upstream_try;

-- names of options
SELECT name || ': ' || pg_temp.server(name, '1')
FROM unnest('{baseurl,time_out,Timeout,max_concurency,api_key,api_key_file,host,x}'::text[])
	WITH ORDINALITY v(name, n) ORDER BY n;
ALTER FOREIGN DATA WRAPPER anyvod OPTIONS (ADD nonsense '42');

--
-- Foreign tables make no sense
--
CREATE SERVER upstream FOREIGN DATA WRAPPER anyvod
	OPTIONS (base_url 'http://127.0.0.1:1');
CREATE FOREIGN TABLE upstream_table (a int) SERVER upstream;

--
-- Mapping options
--
CREATE FUNCTION pg_temp.mapping(option text, value text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	result := regress_helpers.trouble(format(
		'CREATE USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (%I %L)',
		option, value));
	DROP USER MAPPING IF EXISTS FOR PUBLIC SERVER upstream;
	RETURN result;
END $$;
SELECT pg_temp.mapping('api_key', 'sk-0123456789abcdefABCDEF._~+/='),
	pg_temp.mapping('api_key', repeat('k', 4096)),
	pg_temp.mapping('api_key', repeat('k', 4097));
SELECT to_json(value) || ': ' || pg_temp.mapping('api_key', value)
FROM unnest(ARRAY['', ' ', 'hunter2 hunter2', E'hunter2\n', E'hunter2\r\nX: y',
	E'hunter2\t'])
	WITH ORDINALITY v(value, n) ORDER BY n;
SELECT pg_temp.mapping('api_key', 'hunter2' || chr(127)) ~ '^22023 ' AS del,
	pg_temp.mapping('api_key', 'hunter2' || chr(233)) ~ '^22023 ' AS not_ascii;
-- what is pasted around a key, and keys that only look like that
SELECT to_json(value) || ': ' || pg_temp.mapping('api_key', value)
FROM unnest(ARRAY['"hunter2"', '''hunter2''', 'ANYAPI_KEY=hunter2', 'token="hunter2"',
	'Bearer hunter2', 'export KEY=hunter2', 'aHVudGVyMg==', 'hunter2=a'])
	WITH ORDINALITY v(value, n) ORDER BY n;
SELECT pg_temp.mapping('apikey', 'hunter2'), pg_temp.mapping('api_keyf', 'hunter2'),
	pg_temp.mapping('key_file', 'hunter2'),
	pg_temp.mapping('timeout', 'hunter2'), pg_temp.mapping('password', 'hunter2');
CREATE USER MAPPING FOR PUBLIC SERVER upstream
	OPTIONS (api_key 'hunter2', api_key_file '/key');

-- an option can be exchanged for the other
CREATE USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (api_key 'hunter2');
ALTER USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (ADD api_key_file '/key');
ALTER USER MAPPING FOR PUBLIC SERVER upstream
	OPTIONS (DROP api_key, ADD api_key_file '/key');
DROP USER MAPPING FOR PUBLIC SERVER upstream;

--
-- Which server, and who may use it
--
SELECT regress_helpers.trouble($$SELECT anyvod_query('task-1', 'no such server')$$);
CREATE FOREIGN DATA WRAPPER upstream_other;
CREATE FOREIGN DATA WRAPPER upstream_lookalike VALIDATOR anyvod_fdw_validator;
CREATE SERVER upstream_other FOREIGN DATA WRAPPER upstream_other
	OPTIONS (base_url 'file:///etc/passwd');
CREATE SERVER upstream_lookalike FOREIGN DATA WRAPPER upstream_lookalike;
SELECT regress_helpers.trouble($$SELECT anyvod_query('task-1', 'upstream_other')$$);
SELECT regress_helpers.trouble($$SELECT anyvod_query('task-1', 'upstream_lookalike')$$);
DROP FOREIGN DATA WRAPPER upstream_other, upstream_lookalike CASCADE;

SELECT pg_temp.request('upstream');
SET ROLE regress_upstream_user;
CREATE SERVER upstream_mine FOREIGN DATA WRAPPER anyvod;
SELECT regress_helpers.trouble($$SELECT anyvod_query('task-1', 'upstream')$$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER upstream TO regress_upstream_user;
SET ROLE regress_upstream_user;
SELECT pg_temp.request('upstream');
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER upstream FROM regress_upstream_user;
SET ROLE regress_upstream_user;
SELECT pg_temp.request('upstream');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER upstream TO regress_upstream_user;

-- a user sees its own key and no other
CREATE USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (api_key 'hunter2');
SET ROLE regress_upstream_user;
CREATE USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (api_key 'mine');
SELECT usename, umoptions FROM pg_user_mappings
WHERE srvname = 'upstream' ORDER BY usename;
SELECT umoptions FROM pg_user_mapping;
RESET ROLE;
DROP USER MAPPING FOR regress_upstream_user SERVER upstream;
DROP USER MAPPING FOR PUBLIC SERVER upstream;

-- servers belong to the user, so that a dump has them; the wrapper belongs to
-- the extension
SELECT classid::regclass, count(*) FROM pg_depend
WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
	AND classid IN ('pg_foreign_server'::regclass,
					'pg_foreign_data_wrapper'::regclass)
GROUP BY classid;

--
-- Files.  They are made by the server, below its data directory, which is
-- also where its programs start.
--
COPY (SELECT WHERE false) TO PROGRAM 'cat; rm -rf anyvod_upstream; mkdir anyvod_upstream';
COPY (SELECT WHERE false) TO PROGRAM 'cat; cd anyvod_upstream && mkdir directory && mkfifo fifo && : >empty && echo ca >ca.pem';
COPY (SELECT WHERE false) TO PROGRAM 'cat; cd anyvod_upstream && echo hunter2 >lf && printf "hunter2\r\n\n" >crlf && printf hunter2 >none';
COPY (SELECT WHERE false) TO PROGRAM 'cat; cd anyvod_upstream && printf "hunter2\nhunter2\n" >lines && printf "hunter2\0x" >nul && echo hunter2 >closed && chmod 0 closed';
COPY (SELECT WHERE false) TO PROGRAM 'cat; cd anyvod_upstream && printf "%04096d\r\n" 1 >longest && printf "%04097d\r\n" 1 >longer && printf "%01048577d" 1 >large && ln -s lf link';
COPY (SELECT WHERE false) TO PROGRAM 'cat; cd anyvod_upstream && echo KEY=hunter2 >name && echo "\"hunter2\"" >quoted && echo "Bearer hunter2" >bearer';
SELECT current_setting('data_directory') || '/anyvod_upstream' AS dir \gset
CREATE FUNCTION pg_temp.key_file(path text) RETURNS text
LANGUAGE plpgsql SET client_min_messages = error AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('CREATE USER MAPPING FOR PUBLIC SERVER upstream '
				   'OPTIONS (api_key_file %L)', path);
	result := regress_helpers.trouble($q$SELECT anyvod_query('task-1', 'upstream')$q$);
	DROP USER MAPPING FOR PUBLIC SERVER upstream;
	IF position('hunter2' in result) > 0 THEN
		RAISE EXCEPTION 'a message quotes the key: %', result;
	ELSIF result ~ '^HV00N ' THEN
		RETURN 'ok';
	END IF;
	RETURN replace(result, path, 'PATH');
END $$;
SELECT file || ': ' || pg_temp.key_file(:'dir' || '/' || file)
FROM unnest('{lf,crlf,none,link,longest,longer,large,lines,nul,name,quoted,bearer,empty,directory,fifo,closed,missing}'::text[])
	WITH ORDINALITY v(file, n) ORDER BY n;
-- more files than are kept in memory
COPY (SELECT WHERE false) TO PROGRAM 'cat; cd anyvod_upstream && for i in $(seq 70); do echo hunter2 >many$i; done';
SELECT pg_temp.key_file(:'dir' || '/many' || i % 70 + 1), count(*)
FROM generate_series(1, 140) AS i GROUP BY 1;
SELECT pg_temp.mapping('api_key_file', 'key'), pg_temp.mapping('api_key_file', ''),
	pg_temp.server('ca_file', '../ca.pem'),
	pg_temp.server('ca_file', '/' || repeat('a', 1024));

-- a CA file is read the same way
CREATE FUNCTION pg_temp.ca_file(path text) RETURNS text
LANGUAGE plpgsql SET client_min_messages = error AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('CREATE SERVER upstream_try FOREIGN DATA WRAPPER anyvod '
				   'OPTIONS (base_url %L, ca_file %L)', 'http://127.0.0.1:1', path);
	result := regress_helpers.trouble($q$SELECT anyvod_query('task-1', 'upstream_try')$q$);
	DROP SERVER upstream_try;
	IF result ~ '^HV00N ' THEN
		RETURN 'ok';
	END IF;
	RETURN replace(result, path, 'PATH');
END $$;
SELECT file || ': ' || pg_temp.ca_file(:'dir' || '/' || file)
FROM unnest('{ca.pem,longer,large,empty,directory,fifo,closed,missing}'::text[])
	WITH ORDINALITY v(file, n) ORDER BY n;

-- a file that is no good yet is a warning, as a dump may be restored before it
-- is there; that names no content
\set lf_file :dir /lf
\set quoted_file :dir /quoted
\set lines_file :dir /lines
\set large_file :dir /large
CREATE USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (api_key_file '/missing');
\set VERBOSITY sqlstate
ALTER USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (SET api_key_file '/missing');
\set VERBOSITY default
ALTER USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (SET api_key_file '/dev/null');
ALTER USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (SET api_key_file :'lf_file');
ALTER USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (SET api_key_file :'quoted_file');
ALTER USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (SET api_key_file :'lines_file');
ALTER USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (SET api_key_file :'large_file');
DROP USER MAPPING FOR PUBLIC SERVER upstream;
ALTER SERVER upstream OPTIONS (ADD ca_file '/missing');
ALTER SERVER upstream OPTIONS (SET ca_file :'large_file');
ALTER SERVER upstream OPTIONS (SET ca_file :'lf_file');
ALTER SERVER upstream OPTIONS (DROP ca_file);

-- who may name a file
GRANT USAGE ON FOREIGN SERVER upstream TO regress_upstream_reader;
SET ROLE regress_upstream_user;
CREATE USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (api_key_file '/etc/passwd');
SET ROLE regress_upstream_owner;
CREATE SERVER upstream_owned FOREIGN DATA WRAPPER anyvod OPTIONS (ca_file '/etc/passwd');
SET ROLE regress_upstream_reader;
CREATE USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (api_key_file '/missing');
SELECT pg_temp.request('upstream');
DROP USER MAPPING FOR CURRENT_USER SERVER upstream;
RESET ROLE;

-- an owner may keep the CA file that a privileged role has chosen for it
SET ROLE regress_upstream_owner;
CREATE SERVER upstream_owned FOREIGN DATA WRAPPER anyvod;
RESET ROLE;
ALTER SERVER upstream_owned OPTIONS (ADD ca_file '/ca.pem');
SET ROLE regress_upstream_owner;
ALTER SERVER upstream_owned OPTIONS (ADD timeout '1s');
ALTER SERVER upstream_owned OPTIONS (SET ca_file '/etc/passwd');
ALTER SERVER upstream_owned OPTIONS (DROP ca_file);
ALTER SERVER upstream_owned OPTIONS (ADD ca_file '/ca.pem');
RESET ROLE;
-- not one that somebody else's server has, or a server of another wrapper
CREATE SERVER upstream_foreign FOREIGN DATA WRAPPER anyvod OPTIONS (ca_file '/ca.pem');
CREATE FOREIGN DATA WRAPPER upstream_other;
CREATE SERVER upstream_other FOREIGN DATA WRAPPER upstream_other OPTIONS (ca_file '/ca.pem');
ALTER SERVER upstream_other OWNER TO regress_upstream_owner;
SET ROLE regress_upstream_owner;
ALTER SERVER upstream_owned OPTIONS (ADD ca_file '/ca.pem');
RESET ROLE;
DROP FOREIGN DATA WRAPPER upstream_other CASCADE;
DROP SERVER upstream_foreign, upstream_owned;

-- a user may get rid of a key file that it could not have named
CREATE USER MAPPING FOR regress_upstream_user SERVER upstream OPTIONS (api_key_file '/key');
SET ROLE regress_upstream_user;
ALTER USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (SET api_key_file '/key');
ALTER USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (DROP api_key_file, ADD api_key 'mine');
RESET ROLE;
DROP USER MAPPING FOR regress_upstream_user SERVER upstream;

-- a key file is honored only while the server's owner may read files
\set key_file :dir /lf
CREATE USER MAPPING FOR PUBLIC SERVER upstream OPTIONS (api_key_file :'key_file');
SELECT pg_temp.request('upstream');
ALTER SERVER upstream OWNER TO regress_upstream_owner;
SELECT regress_helpers.trouble($$SELECT anyvod_query('task-1', 'upstream')$$);
GRANT pg_read_server_files TO regress_upstream_owner;
SELECT pg_temp.request('upstream');
REVOKE pg_read_server_files FROM regress_upstream_owner;
SELECT pg_temp.request('upstream');
ALTER SERVER upstream OWNER TO CURRENT_USER;
SELECT pg_temp.request('upstream');

--
-- What was remembered is forgotten when it changes
--
CREATE USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (api_key_file '/missing');
SELECT pg_temp.request('upstream');
ALTER USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (SET api_key_file :'key_file');
SELECT pg_temp.request('upstream');
ALTER USER MAPPING FOR CURRENT_USER SERVER upstream OPTIONS (SET api_key_file '/missing');
SELECT pg_temp.request('upstream');
DROP USER MAPPING FOR CURRENT_USER SERVER upstream;
SELECT pg_temp.request('upstream');
ALTER SERVER upstream OPTIONS (ADD ca_file '/missing');
SELECT pg_temp.request('upstream');
ALTER SERVER upstream OPTIONS (DROP ca_file);
ALTER SERVER upstream RENAME TO upstream_renamed;
SELECT pg_temp.request('upstream'), pg_temp.request('upstream_renamed');
CREATE SERVER upstream FOREIGN DATA WRAPPER anyvod OPTIONS (ca_file '/missing');
SELECT pg_temp.request('upstream'), pg_temp.request('upstream_renamed');
DROP SERVER upstream_renamed CASCADE;
SELECT pg_temp.request('upstream'), pg_temp.request('upstream_renamed');
BEGIN;
ALTER SERVER upstream OPTIONS (DROP ca_file, ADD base_url 'http://127.0.0.1:1');
SELECT pg_temp.request('upstream');
ROLLBACK;
SELECT pg_temp.request('upstream');
DROP SERVER upstream;

--
-- Task ids: what is good fails only for want of the server
--
SELECT to_json(left(id, 40)) || ': ' ||
	regress_helpers.trouble(format('SELECT anyvod_query(%L, %L)', id, 'upstream'))
FROM unnest(ARRAY['251000800-AigcVideoTask-0af3t', 'A.b_C-9', '...', '.a', repeat('x', 256),
	'', '.', '..', repeat('x', 257), 'a/b', '../a', 'a?b', 'a#b', 'a%2e', 'a b',
	E'a\nb', repeat('/', 64), repeat('/', 65)])
	WITH ORDINALITY v(id, n) ORDER BY n;
SELECT regress_helpers.trouble(format('SELECT anyvod_query(%L, %L)', 'a' || chr(233), 'upstream'));

COPY (SELECT WHERE false) TO PROGRAM 'cat; rm -rf anyvod_upstream';
DROP SCHEMA regress_helpers CASCADE;
REVOKE ALL ON FOREIGN DATA WRAPPER anyvod FROM regress_upstream_owner;
DROP ROLE regress_upstream_owner, regress_upstream_reader, regress_upstream_user;
