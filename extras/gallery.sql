--
-- gallery.sql: what anyvod_tasks holds, as one page for a browser.
--
--	psql -XAtf extras/gallery.sql > gallery.html
--	psql -XAt -v results=50 -v title='Shop' -f extras/gallery.sql > gallery.html
--
-- "results" is how many results, failures and running tasks it shows at most,
-- each the latest (default 200).  The page needs nothing beside it, and a
-- browser opens it from a file.  It shows the rows that the role may see.
--
-- Nothing is written, so that a standby will do.  The page's own style and
-- script are all that its content security policy lets run; every value of
-- the database goes through the one place that escapes, called "escaped", and
-- a URL that is not plainly http or https is shown as text.
--
\set QUIET on
\set ON_ERROR_STOP on
\pset format unaligned
\pset tuples_only on
\pset fieldsep ''
\encoding UTF8
\if :{?results}
\else
	\set results 200
\endif
\if :{?title}
\else
	\set title anyvod
\endif
-- One row of "raw", as an object of texts that HTML takes, in an attribute too.
\set escaped 'SELECT raw.n, e.h FROM raw, LATERAL (SELECT jsonb_object_agg(key, replace(replace(replace(replace(replace(value, ''&'', ''&amp;''), ''<'', ''&lt;''), ''>'', ''&gt;''), ''"'', ''&quot;''), '''''''', ''&#39;'')) AS h FROM jsonb_each_text(to_jsonb(raw))) AS e'
SET client_min_messages = warning;
SET IntervalStyle = postgres;
SET standard_conforming_strings = on;
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- The head: the style, the script, and a policy that allows these two.
WITH page (style, script) AS (VALUES ($css$
:root {
	color-scheme: light dark;
	--paper: #f6f6f4; --card: #fff; --ink: #1d1f21; --soft: #63686e;
	--line: #e0e0dc; --good: #16794a; --bad: #b3261e; --busy: #1f5fbf;
}
@media (prefers-color-scheme: dark) {
	:root {
		--paper: #141618; --card: #1e2124; --ink: #e8e8e6; --soft: #9aa0a6;
		--line: #33373b; --good: #5cc48f; --bad: #ff8a80; --busy: #7fb0ff;
	}
}
* { box-sizing: border-box; }
body {
	margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem); max-width: 100rem;
	font: 15px/1.5 system-ui, sans-serif; background: var(--paper); color: var(--ink);
}
header { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; align-items: baseline; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 2rem 0 .8rem; }
small, .soft { color: var(--soft); font-size: .85rem; }
nav { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1.2rem 0 0; }
nav input { position: absolute; opacity: 0; }
nav label {
	padding: .3rem .9rem; border: 1px solid var(--line); border-radius: 2rem;
	background: var(--card); cursor: pointer;
}
nav b { margin-left: .3rem; font-variant-numeric: tabular-nums; }
nav input:checked + label { background: var(--ink); color: var(--paper); border-color: var(--ink); }
nav input:focus-visible + label { outline: 2px solid var(--busy); outline-offset: 2px; }
body:has(#pending:checked) section:not(.pending),
body:has(#succeeded:checked) section:not(.succeeded),
body:has(#failed:checked) section:not(.failed),
body:has(#abandoned:checked) section:not(.abandoned),
body:has(#failed:checked) li.abandoned,
body:has(#abandoned:checked) li.failed { display: none; }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem; }
.succeeded ul { grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
.failed ul { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.pending ul { gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
li {
	background: var(--card); border: 1px solid var(--line); border-radius: .7rem;
	overflow: hidden; overflow-wrap: anywhere; min-width: 0;
}
li > div { padding: .7rem .9rem; }
.media {
	display: grid; place-items: center; aspect-ratio: 4 / 3; padding: 0;
	background: var(--line); color: var(--soft);
}
.media img, .media video { width: 100%; height: 100%; min-height: 0; object-fit: contain; }
.media audio { width: 90%; }
.prompt {
	display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3;
	overflow: hidden; margin: 0 0 .4rem;
}
.facts { display: flex; flex-wrap: wrap; gap: 0 .9rem; color: var(--soft); font-size: .85rem; }
.facts b { color: var(--ink); font-weight: 600; }
.id { font: .75rem ui-monospace, monospace; color: var(--soft); }
a { color: var(--busy); }
.pending li > div {
	display: grid; gap: .1rem .8rem; align-items: center; grid-template-columns: 1fr 3.2rem minmax(5.5rem, max-content);
}
.pending .why, .pending .id { grid-column: 1 / -1; }
progress {
	grid-column: 1 / -1; width: 100%; height: .5rem; appearance: none;
	border: 0; border-radius: .25rem; overflow: hidden; background: var(--line);
}
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--busy); }
progress::-moz-progress-bar { background: var(--busy); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.why { color: var(--soft); font-size: .85rem; }
.code { color: var(--bad); }
.code { font-weight: 600; }
.soon { color: var(--bad); font-weight: 600; }
.charts ul { grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
svg { display: block; width: 100%; height: auto; }
svg rect { fill: var(--busy); }
svg .delay { fill: var(--good); }
svg line { stroke: var(--line); }
svg text { fill: var(--soft); font: 10px system-ui, sans-serif; }
$css$, $js$
"use strict";
const pad = n => String(n).padStart(2, "0");
const clock = s => {
	const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24;
	const rest = pad(Math.floor(s / 60) % 60) + ":" + pad(s % 60);
	return (d ? d + " d " : "") + (d || h ? pad(h) + ":" : "") + rest;
};
const about = s => "about " + (s < 90 ? Math.ceil(s / 5) * 5 + " s" :
	s < 5400 ? Math.round(s / 60) + " min" : Math.round(s / 3600) + " h") + " left";
const lost = (media, why) => {
	const p = document.createElement("p");
	p.textContent = why;
	media.replaceChildren(p);
};
const tick = () => {
	const now = Math.floor(Date.now() / 1000);
	for (const e of document.querySelectorAll("[data-since]"))
		e.textContent = clock(Math.max(0, now - e.dataset.since));
	for (const e of document.querySelectorAll("[data-about]")) {
		const left = e.dataset.about - now;
		e.textContent = left > 0 ? about(left) : "any moment now";
	}
	for (const e of document.querySelectorAll("[data-until]")) {
		const left = e.dataset.until - now;
		e.textContent = left > 0 ? "expires in " + clock(left) : "expired";
		e.classList.toggle("soon", left < 86400);
	}
};
document.addEventListener("error", event => {
	const media = event.target.closest && event.target.closest(".media");
	if (media)
		lost(media, "the file could not be shown");
}, true);
addEventListener("DOMContentLoaded", () => {
	const seen = new IntersectionObserver(entries => {
		for (const entry of entries)
			if (entry.isIntersecting) {
				entry.target.preload = "metadata";
				seen.unobserve(entry.target);
			}
	}, {rootMargin: "400px"});
	for (const e of document.querySelectorAll("video"))
		seen.observe(e);
	tick();
	setInterval(tick, 1000);
});
$js$)), raw AS (
	SELECT 1 AS n, :'title' AS title, current_database() AS db,
		to_char(now(), 'YYYY-MM-DD HH24:MI TZ') AS made, w.state, w.hint,
		count(*) FILTER (WHERE t.state IS NOT NULL) AS total,
		count(*) FILTER (WHERE t.state = 'pending') AS pending,
		count(*) FILTER (WHERE t.state = 'succeeded') AS succeeded,
		count(*) FILTER (WHERE t.state = 'failed') AS failed,
		count(*) FILTER (WHERE t.state = 'abandoned') AS abandoned
	FROM (VALUES (1)) one
		LEFT JOIN anyvod_tasks t ON true
		LEFT JOIN anyvod_stat_worker w ON w.datname = current_database()
	GROUP BY w.state, w.hint
), escaped AS (
	:escaped
)
SELECT concat('<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src ''none''; img-src http: https:; media-src http: https:; style-src ''sha256-',
	encode(sha256(convert_to(style, 'UTF8')), 'base64'), '''; script-src ''sha256-',
	encode(sha256(convert_to(script, 'UTF8')), 'base64'), '''; base-uri ''none''; form-action ''none''">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>', h ->> 'title', '</title>
<style>', style, '</style>
<script>', script, '</script>
</head>
<body>
<header><h1>', h ->> 'title', '</h1>
<small>', h ->> 'total', ' tasks in ', h ->> 'db', ', ', h ->> 'made',
	'; worker: ' || (h ->> 'state'), ' (' || (h ->> 'hint') || ')', '</small></header>
<nav>',
	(SELECT string_agg(format('<input type="radio" name="state" id="%s"%s><label for="%s">%s<b>%s</b></label>',
			state, CASE state WHEN 'all' THEN ' checked' END, state, state,
			h ->> CASE state WHEN 'all' THEN 'total' ELSE state END), '' ORDER BY n)
		FROM unnest('{all,pending,succeeded,failed,abandoned}'::text[]) WITH ORDINALITY AS s (state, n)),
	'</nav>')
FROM page, escaped;

-- What runs.
WITH raw AS (
	SELECT row_number() OVER (ORDER BY t.created_at DESC, t.task_id) AS n,
		d.task_id, coalesce(d.model, 'model not known yet') AS model,
		CASE WHEN t.progress BETWEEN 0 AND 100 THEN t.progress ELSE 0 END AS progress,
		extract(epoch FROM coalesce(t.started_at, t.created_at))::bigint AS since,
		regexp_replace(d.elapsed::text, '^00:', '') AS elapsed, d.why,
		extract(epoch FROM now())::bigint + s AS about,
		CASE WHEN s < 90 THEN greatest(5, ceil(s / 5.0) * 5) || ' s' WHEN s < 5400 THEN round(s / 60.0) || ' min'
			ELSE round(s / 3600.0) || ' h' END AS words
	FROM anyvod_dashboard d JOIN anyvod_tasks t USING (task_id),
		LATERAL (SELECT extract(epoch FROM d.time_left)::bigint AS s) AS l
	WHERE t.state = 'pending' AND d.state = 'pending'
	ORDER BY n LIMIT :results
), escaped AS (
	:escaped
)
SELECT concat('<section class="pending">
<h2>Running</h2>
<ul>
', string_agg(concat('<li><div><b>', h ->> 'model', '</b><span class="number">', h ->> 'progress',
	' %</span><span class="number" ', CASE WHEN h ->> 'about' IS NOT NULL
		THEN concat('data-about="', h ->> 'about', '">about ', h ->> 'words', ' left')
		ELSE concat('data-since="', h ->> 'since', '">', h ->> 'elapsed') END, '</span>',
	'<progress max="100" value="', h ->> 'progress', '"></progress>',
	'<span class="why">' || (h ->> 'why') || '</span>',
	'<span class="id">', h ->> 'task_id', '</span></div></li>'), E'\n' ORDER BY n), '
</ul>
</section>')
FROM escaped HAVING count(*) > 0;

-- Results.
WITH latest AS (
	SELECT * FROM anyvod_tasks WHERE state = 'succeeded'
	ORDER BY settled_at DESC NULLS LAST, task_id LIMIT :results
), raw AS (
	SELECT row_number() OVER (ORDER BY settled_at DESC NULLS LAST, task_id) AS n,
		task_id, model, task_type, file_url, settled_at,
		left(jsonb_path_query_first(response, '$.**{1 to 6}.Input.Prompt') #>> '{}', 600) AS prompt,
		CASE WHEN isfinite(started_at) AND isfinite(ended_at)
			THEN regexp_replace(date_trunc('second', ended_at - started_at)::text, '^00:', '') END AS took,
		CASE WHEN isfinite(expire_time) THEN extract(epoch FROM expire_time)::bigint END AS until,
		CASE WHEN isfinite(expire_time) AND expire_time > now()
			THEN 'expires in ' || date_trunc('second', expire_time - now()) ELSE 'expired' END AS remains,
		expire_time <= now() AS dead,
		-- nothing but a plain web address gets into src or href
		length(file_url) <= 8192 AND file_url ~* '^https?://[!-~]+$' AND file_url !~ '["''<>`\\]' AS good,
		CASE WHEN path ~ '\.(png|jpe?g|webp|gif|avif|bmp)$' THEN 'img'
			WHEN path ~ '\.(mp4|m4v|mov|webm)$' THEN 'video'
			WHEN path ~ '\.(mp3|wav|ogg|m4a|aac|flac)$' THEN 'audio'
			WHEN path ~ '\.[a-z0-9]{1,5}$' THEN 'other'
			WHEN task_type ILIKE '%image%' THEN 'img'
			WHEN task_type ILIKE '%video%' THEN 'video' ELSE 'other' END AS kind
	FROM latest, regexp_replace(lower(file_url), '[?#].*', '') AS path
), escaped AS (
	:escaped
)
SELECT concat('<section class="succeeded">
<h2>Results</h2>
<ul>
', string_agg(concat('<li><div class="media">',
	CASE WHEN h ->> 'file_url' IS NULL THEN '<p>no file</p>'
		WHEN h ->> 'good' = 'false' THEN '<p>not a web address</p>'
		WHEN h ->> 'dead' = 'true' THEN '<p>expired</p>'
		WHEN h ->> 'kind' = 'img' THEN concat('<img loading="lazy" referrerpolicy="no-referrer" alt="', h ->> 'prompt', '" src="', h ->> 'file_url', '">')
		WHEN h ->> 'kind' IN ('video', 'audio') THEN concat('<', h ->> 'kind', ' controls preload="none" src="', h ->> 'file_url', '"></', h ->> 'kind', '>')
		ELSE '<p>a file of another kind</p>' END,
	'</div><div>', '<p class="prompt">' || (h ->> 'prompt') || '</p>',
	'<div class="facts">', '<b>' || (h ->> 'model') || '</b>', '<span>took ' || (h ->> 'took') || '</span>',
	'<span data-until="' || (h ->> 'until') || '">' || (h ->> 'remains') || '</span>',
	CASE WHEN h ->> 'good' = 'true' THEN concat('<a rel="noopener noreferrer" target="_blank" href="', h ->> 'file_url', '">open</a>')
		ELSE '<span>' || (h ->> 'file_url') || '</span>' END,
	'</div><span class="id">', h ->> 'task_id', '</span></div></li>'), E'\n' ORDER BY n), '
</ul>
</section>')
FROM escaped HAVING count(*) > 0;

-- Failures.
WITH latest AS (
	SELECT * FROM anyvod_tasks WHERE state IN ('failed', 'abandoned')
	ORDER BY settled_at DESC NULLS LAST, task_id LIMIT :results
), raw AS (
	SELECT row_number() OVER (ORDER BY settled_at DESC NULLS LAST, task_id) AS n,
		state, task_id, model, coalesce(error_code, state::text) AS code, error_message AS message,
		left(jsonb_path_query_first(response, '$.**{1 to 6}.Input.Prompt') #>> '{}', 600) AS prompt,
		to_char(settled_at, 'YYYY-MM-DD HH24:MI') AS settled
	FROM latest
), escaped AS (
	:escaped
)
SELECT concat('<section class="failed abandoned">
<h2>Failures</h2>
<ul>
', string_agg(concat('<li class="', h ->> 'state', '"><div><span class="code">', h ->> 'code', '</span> ',
	h ->> 'message', '<p class="prompt soft">' || (h ->> 'prompt') || '</p>',
	'<div class="facts">', '<b>' || (h ->> 'model') || '</b>', '<span>', h ->> 'state', '</span>',
	'<span>' || (h ->> 'settled') || '</span>', '</div><span class="id">', h ->> 'task_id',
	'</span></div></li>'), E'\n' ORDER BY n), '
</ul>
</section>')
FROM escaped HAVING count(*) > 0;

-- How long tasks took, and how soon their end was seen (of those that were
-- inserted before it), for the twelve models with the most of them.  Seconds
-- on a logarithmic scale, the same for all charts of a kind.
WITH figure AS (
	SELECT coalesce(model, task_type, 'unknown') AS model, kind, greatest(seconds, 0.1) AS seconds
	FROM anyvod_tasks, LATERAL (VALUES
		('duration', CASE WHEN isfinite(started_at) AND isfinite(ended_at)
			THEN extract(epoch FROM ended_at - started_at) END),
		('detection delay', CASE WHEN ended_at > created_at AND isfinite(ended_at) AND isfinite(settled_at)
			THEN extract(epoch FROM settled_at - ended_at) END))
		AS v (kind, seconds)
	WHERE state IN ('succeeded', 'failed') AND seconds IS NOT NULL
), scale AS (
	SELECT kind, ln(least(min(seconds), 1)) AS low, ln(greatest(max(seconds), 10) * 1.01) AS high
	FROM figure GROUP BY kind
), bin AS (
	SELECT model, kind, width_bucket(ln(seconds), low, high, 40) AS bin, count(*) AS n
	FROM figure JOIN scale USING (kind) GROUP BY 1, 2, 3
), bars AS (
	SELECT model, kind, string_agg(format('<rect class="%s" x="%s" y="%s" width="7" height="%s"><title>%s</title></rect>',
		CASE kind WHEN 'duration' THEN 'duration' ELSE 'delay' END, 8 * bin - 8, 70 - height, height, n), '') AS bars
	FROM (SELECT *, round(1 + 64.0 * n / max(n) OVER (PARTITION BY model, kind), 1) AS height FROM bin) b
	GROUP BY model, kind
), ticks AS (
	SELECT kind, string_agg(format('<line x1="%s" x2="%s" y1="70" y2="74"/><text x="%s" y="85" text-anchor="middle">%s</text>',
		x, x, greatest(12, least(306, x)), label), '') AS ticks
	FROM scale, LATERAL (
		SELECT round(320 * (ln(s) - low) / (high - low)) AS x, label
		FROM (VALUES (0.1, '0.1 s'), (0.3, '0.3 s'), (1, '1 s'), (3, '3 s'), (10, '10 s'), (30, '30 s'), (120, '2 min'),
			(480, '8 min'), (1800, '30 min'), (7200, '2 h'), (43200, '12 h'), (259200, '3 d')) t (s, label)
		WHERE ln(s) BETWEEN low AND high) t
	GROUP BY kind
), place AS (
	SELECT model, row_number() OVER (ORDER BY count(*) DESC, model) AS place
	FROM figure GROUP BY model
), raw AS (
	SELECT row_number() OVER (ORDER BY place, kind DESC) AS n, model, kind, count(*) AS tasks,
		round(percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)::numeric, 1) AS p50,
		round(percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds)::numeric, 1) AS p95
	FROM figure JOIN place USING (model)
	WHERE place <= 12
	GROUP BY place, model, kind
), escaped AS (
	:escaped
)
SELECT concat('<section class="charts">
<h2>Durations and detection delays</h2>
<ul>
', string_agg(charts, E'\n' ORDER BY first), '
</ul>
</section>')
FROM (
	SELECT min(n) AS first, concat('<li>', string_agg(concat('<div><div class="facts"><b>', h ->> 'model', '</b><span>',
		h ->> 'kind', '</span><span>', h ->> 'tasks', ' tasks, p50 ', h ->> 'p50', ' s, p95 ', h ->> 'p95',
		' s</span></div><svg viewBox="0 0 320 90" role="img" aria-label="histogram of ', h ->> 'kind', ', ', h ->> 'model',
		'"><line x1="0" x2="320" y1="70" y2="70"/>', bars, ticks, '</svg></div>'), '' ORDER BY n), '</li>') AS charts
	FROM escaped JOIN raw USING (n) JOIN bars USING (model, kind) JOIN ticks USING (kind)
	GROUP BY model) AS per_model
HAVING count(*) > 0;
COMMIT;
\echo '</body>'
\echo '</html>'
