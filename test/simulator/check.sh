#!/bin/bash
#
# check.sh [SIMULATOR]
#		Asks a simulator of its own about every word of README.md.
#
# Without an argument it is built first.  The answers are read with perl's
# JSON::PP, which every perl has.  The last line counts the checks; the exit
# status is not 0 if one failed.

set -u

simulator=${1:+$(realpath "$1")}
cd "$(dirname "$0")" || exit 1
room=$(mktemp -d) || exit 1
if [ -z "$simulator" ]
then
	make -s BUILD="$room/build" || exit 1
	simulator=$room/build/simulator
fi

passed=0
failed=0
pids=()

end_all()
{
	for pid in "${pids[@]}"
	do
		kill "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	rm -rf "$room"
}
trap end_all EXIT

# result NAME STATUS [EXPLANATION]: notes one check, passed if STATUS is 0
result()
{
	if [ "$2" -eq 0 ]
	then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $1${3:+: $3}"
	fi
}

# start OPTION...: starts a simulator, sets $base to its URL, $pid to its pid
start()
{
	rm -f "$room/port"
	"$simulator" --port-file "$room/port" --parent $$ "$@" \
		>"$room/stdout" 2>"$room/stderr" &
	pid=$!
	pids+=("$pid")
	until [ -s "$room/port" ]
	do
		if ! kill -0 "$pid" 2>/dev/null
		then
			cat "$room/stderr"
			exit 1
		fi
		sleep 0.01
	done
	base=http://127.0.0.1:$(cat "$room/port")
}

# fetch URL [CURL-OPTION]...: sets $http, $exit, $type, $seconds, $size
fetch()
{
	local url=$1 line
	shift
	: >"$room/body"
	: >"$room/headers"
	line=$(curl -s --noproxy '*' --max-time 15 -o "$room/body" \
		-D "$room/headers" "$@" \
		-w '%{http_code} %{time_total} %{size_download} %{content_type}' \
		"$url")
	exit=$?
	read -r http seconds size type <<<"$line"
}

# ask ID [CURL-OPTION]...
ask()
{
	local id=$1
	shift
	fetch "$base/tencent-vod/v1/query/$id" "$@"
}

# true_of NAME PERL: of the body, decoded as $j, with $r = $j->{Response} and
# $t its task object, holds PERL
true_of()
{
	perl -MJSON::PP -MTime::Local -e '
		my ($file, $code) = @ARGV;
		sub unix { $_[0] =~ /^(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)Z$/
			or die "bad date $_[0]\n";
			timegm($6, $5, $4, $3, $2 - 1, $1) }
		open my $in, "<:raw", $file or die;
		local $/;
		our $j = JSON::PP->new->utf8->max_depth(100000)->decode(<$in>);
		our ($r, $t);
		if (ref $j eq "HASH" && ref $j->{Response} eq "HASH")
		{
			$r = $j->{Response};
			my ($key) = grep { ref $r->{$_} eq "HASH" && $_ ne "Error" }
				keys %$r;
			$t = $r->{$key} if defined $key;
		}
		my $holds = eval $code;
		die $@ if $@;
		exit($holds ? 0 : 1);' "$room/body" "$2" 2>"$room/why"
	result "$1" $? "$(cat "$room/why"; head -c 400 "$room/body")"
}

# says ID PERL: HTTP 200 and JSON of which PERL holds
says()
{
	ask "$1"
	[ "$http" = 200 ] && [ "$exit" = 0 ]
	result "$1 is answered" $? "HTTP $http, curl $exit"
	true_of "$1" "$2"
}

# refused ID STATUS REGEX-OF-TYPE REGEX-OF-BODY
refused()
{
	ask "$1"
	[ "$exit" = 0 ] && [ "$http" = "$2" ] && [[ $type =~ $3 ]] &&
		grep -qE -- "$4" "$room/body"
	result "$1" $? "HTTP $http, $type, $(head -c 200 "$room/body")"
}

# breaks ID CURL-EXIT: the transfer fails in that way
breaks()
{
	ask "$1"
	[ "$exit" = "$2" ]
	result "$1" $? "curl $exit"
}

# lasts ID LEAST MOST: milliseconds until the answer has arrived
lasts()
{
	ask "$1"
	[ "$exit" = 0 ] && [ "$http" = 200 ] &&
		perl -e 'exit !($ARGV[0] >= $ARGV[1] / 1000 &&
			$ARGV[0] < $ARGV[2] / 1000)' "$seconds" "$2" "$3"
	result "$1 lasts $2 to $3 ms" $? "$seconds s, HTTP $http, curl $exit"
}

# stats QUERY PERL
stats()
{
	fetch "$base/_stats?$1"
	true_of "_stats?$1: $2" "$2"
}

header()
{
	grep -qiE "^$1" "$room/headers"
	result "$2: header $1" $? "$(cat "$room/headers")"
}

check_kinds()
{
	local ended='$r->{Status} eq "FINISH" && $t->{Status} eq "FINISH" &&
		$t->{TaskId}'
	local files='$t->{Output}{FileInfos}[0]{FileUrl} =~'
	local pair id type

	says image-1 "$ended && \$r->{TaskType} eq 'AigcImageTask' &&
		$files m{/files/[0-9a-f]{16}\\.png\$} &&
		\$t->{Input}{ModelName} eq 'GEM' &&
		\$t->{Input}{ModelVersion} eq '2.5' && \$t->{Progress} == 100 &&
		!exists \$t->{ErrCode} && !exists \$r->{EditMediaTask}"
	says video-1 "$ended && $files m{\\.mp4\$} && !exists \$t->{Output}{Usage}
		&& \$t->{Input}{ModelName} eq 'Kling'
		&& \$t->{Input}{ModelVersion} eq '2.1'"
	says audio-1 "$ended && \$t->{Output}{AudioInfos}[0]{FileUrl}
		&& !exists \$t->{Output}{FileInfos}"
	says audio-full-1 "ref \$t->{Output}{VideoInfos} eq 'ARRAY'
		&& !exists \$t->{SessionId}"
	says scene-full-1 "$ended && \$r->{TaskType} eq 'SceneAigcImageTask'
		&& !exists \$t->{ErrCodeExt} && $files m{png}"
	says scene-video-1 "\$r->{TaskType} eq 'SceneAigcVideoTask'"
	says redraw-1 "$ended && \$t->{Output}{FileInfo}{FileUrl} =~ /mp4/"
	says hunyuan3d-1 "$ended && \$t->{Output}{FileInfos}[0]{PreviewFileUrl}"
	says edit-1 "$ended && \$r->{EditMediaTask} && \$t->{Output}{FileUrl}"
	says processimage-1 "$ended && \$r->{ProcessImageAsyncTask}
		&& \$t->{Output}{FileInfo}{FileUrl} && \$t->{Output}{OutputText}"
	says processimage-nofile-1 "!exists \$t->{Output}{FileInfo}
		&& \$t->{Output}{OutputText}"
	says procedure-1 "\$r->{TaskType} eq 'Procedure' && \$t->{FileUrl}
		&& !exists \$t->{Progress}
		&& \$t->{MediaProcessResultSet}[0]{TranscodeTask}{Output}{Url}"
	for type in AigcImageTask AigcVideoTask AigcAudioTask SceneAigcImageTask \
		SceneAigcVideoTask AigcVideoRedrawTask AigcHunyuan3DTask
	do
		says "1500-$type-00ff$type" \
			"\$r->{TaskType} eq '$type' && \$r->{$type}{TaskId}"
	done
	says mVidu-vq2-1 '$t->{Input}{ModelName} eq "Vidu" &&
		$t->{Input}{ModelVersion} eq "q2"'
	says video-mHailuo-v2.3_fast '$t->{Input}{ModelName} eq "Hailuo" &&
		$t->{Input}{ModelVersion} eq "2.3_fast"'
}

check_course()
{
	local past

	says t0-1 'my $f = unix($r->{FinishTime}); my $s = time - $f;
		$s >= 1 && $s <= 4 && unix($r->{CreateTime}) < $f &&
		$r->{BeginProcessTime} eq $r->{CreateTime} &&
		unix($t->{Output}{FileInfos}[0]{ExpireTime}) == $f + 7*86400 + 12'
	says t60000-1 '$r->{Status} eq "PROCESSING" && !exists $r->{FinishTime} &&
		!exists $t->{Progress} && !exists $t->{Output}'
	says t60000-full-1 '$r->{FinishTime} eq "0001-01-01T00:00:00Z" &&
		$t->{Progress} == 0 && $t->{ErrCode} == 0 && $t->{ErrCodeExt} eq "" &&
		@{$t->{Output}{FileInfos}} == 0 && exists $r->{EditMediaTask} &&
		!defined $r->{EditMediaTask} && scalar(grep { /Task$/ } keys %$r) > 35'
	past=$(perl -MTime::HiRes=time -e 'printf "%.0f", time * 1000 - 50000')
	says "t100000-b$past-progress" '$t->{Progress} >= 50 &&
		$t->{Progress} < 70'
	says "t100000-b$past" '!exists $t->{Progress}'
	says "t100000-b$past-jump47" '$t->{Progress} == 47'
	says "t20000-b$past" '$r->{Status} eq "FINISH" &&
		unix($r->{FinishTime}) == unix($r->{CreateTime}) + 20'
	says t60000-wait50000-1 '$r->{Status} eq "WAITING" && !defined $t &&
		$r->{CreateTime}'
	says t60000-wait50000-full-1 '$r->{Status} eq "WAITING" && !defined $t &&
		exists $r->{AigcImageTask} && $r->{FinishTime} =~ /^0001/'
	says "t100000-wait20000-b$past" '$r->{Status} eq "PROCESSING" &&
		unix($r->{BeginProcessTime}) == unix($r->{CreateTime}) + 20'

	# a task runs, then has ended: asked until the time has come
	says t400-1 '$r->{Status} eq "PROCESSING"'
	for _ in {1..60}
	do
		ask t400-1
		grep -q FINISH "$room/body" && break
		sleep 0.02
	done
	true_of "t400 ends" '$r->{Status} eq "FINISH"'
	stats "task=t400-1" '$j->{end_ms} == $j->{first_ms} + 400 &&
		$j->{requests} >= 2 && $j->{last_ms} >= $j->{end_ms} &&
		$j->{id} eq "t400-1"'
}

check_endings()
{
	says files3-1 'my %u = map { $_->{FileUrl} => 1 }
		@{$t->{Output}{FileInfos}}; keys %u == 3'
	says files99-1 '@{$t->{Output}{FileInfos}} == 10'
	says nofile-1 '$r->{Status} eq "FINISH" && !exists $t->{Output}'
	says nofile-full-1 '@{$t->{Output}{FileInfos}} == 0 && !$t->{ErrCode}'
	says permanent-1 'my $f = $t->{Output}{FileInfos}[0];
		$f->{StorageMode} eq "Permanent" &&
		$f->{ExpireTime} eq "9999-12-31T23:59:59Z"'
	says fail-1 '$r->{Status} eq "FINISH" && $t->{Status} eq "FINISH" &&
		$t->{ErrCode} == 70000 && $t->{ErrCodeExt} eq "InternalError" &&
		$t->{Message} =~ /gen_video/ && $t->{Progress} == 100 &&
		!exists $t->{Output}'
	says fail40000-extInvalidParameter.VoilationContent '$t->{ErrCode} == 40000
		&& $t->{ErrCodeExt} eq "InvalidParameter.VoilationContent"'
	says fail0-extTaskTimeout '!exists $t->{ErrCode} &&
		$t->{ErrCodeExt} eq "TaskTimeout"'
	says fail-edit-1 '$t->{ErrCode} == 70000 && !exists $t->{Output}'
	says fail-t60000-1 '$r->{Status} eq "PROCESSING" && !exists $t->{ErrCode}'
	says abort-1 '$r->{Status} eq "ABORTED" && $t->{ErrCode} == 70000'
	says wrap-1 '$j->{code} eq "success" && $j->{data}{status} eq "SUCCESS" &&
		$j->{data}{progress} eq "100%" &&
		$j->{data}{data}{Response}{AigcImageTask}{TaskId} eq "wrap-1" &&
		$j->{data}{result_url}'
	says wrap-fail-full-1 '$j->{data}{status} eq "FAILURE" &&
		$j->{data}{result_url} =~ /gen_video/ &&
		exists $j->{data}{data}{Response}{ClipTask}'
	says wrap-t60000-jump47 '$j->{data}{status} eq "IN_PROGRESS" &&
		$j->{data}{progress} eq "47%" && !exists $j->{data}{result_url}'
	says nul-1 '$t->{Input}{Prompt} eq "pig\0pig"'
	says uni-1 '$t->{Input}{Prompt} =~ /\x{590f}/ && $t->{Message}'
	says uni-fail-1 '$t->{Message} =~ /\x{5931}/'
	ask badutf8-1
	LC_ALL=C grep -q "$(printf '\xff\xfe\xc3(')" "$room/body"
	result "badutf8" $?
	refused surrogate-1 200 json '"pig\\ud83d"'
}

check_transport()
{
	local before

	lasts delay300-1 300 3000
	lasts dribble400-1 400 3000
	ask dribble600-2 --max-time 0.3
	[ "$exit" = 28 ] && [ "$size" -gt 0 ] && [ "$size" -lt 500 ]
	result "dribble sends pieces" $? "curl $exit, $size bytes"
	breaks cut-1 18
	[ "$size" -gt 100 ]
	result "cut sends something" $? "$size bytes"
	breaks cutchunk-1 18
	header 'transfer-encoding: chunked' cutchunk
	breaks reset-1 56
	[ "$size" = 0 ]
	result "reset sends nothing" $? "$size bytes"
	breaks resetbody-1 56
	[ "$size" -gt 100 ]
	result "resetbody sends a part" $? "$size bytes"
	says close-1 '$t->{Status}'
	header 'connection: close' close
	says huge1000000-1 'length($t->{Input}{FileInfos}[0]{Base64}) > 990000'
	[ "$size" = 1000000 ]
	result "huge has that many bytes" $? "$size"
	ask huge200000-dribble200-1
	[ "$size" = 200000 ] && [ "$exit" = 0 ]
	result "huge and dribble" $? "$size bytes, curl $exit"
	says huge10-1 '$t->{Output}'
	breaks huge100000-cut-1 18
	says deep5000-1 'my ($d, $x) = (4, $t->{Input}{ExtInfo});
		while (ref $x) { $d++; $x = $x->[0] } $d == 5000'

	# someone who does not wait for a late answer is noticed at once
	before=$(date +%s)
	ask delay60000-1 --max-time 0.1
	for _ in {1..200}
	do
		fetch "$base/_stats?tasks=0"
		grep -q '"in_flight":0' "$room/body" && break
		sleep 0.01
	done
	true_of "a hang-up during the delay is noticed" \
		'$j->{in_flight} == 0 && $j->{open_connections} == 0'
	[ $(($(date +%s) - before)) -lt 10 ]
	result "and soon" $?
}

check_refusals()
{
	refused html-1 200 text/html '<div id="root">'
	ask empty-1
	[ "$http" = 200 ] && [ "$exit" = 0 ] && [ "$size" = 0 ]
	result "empty is empty" $? "HTTP $http, $size bytes"
	refused notjson-1 200 text/plain '^no json$'
	refused oneapi-1 200 json '"type":"one_api_error"'
	refused unknown-1 400 json '"code":"task_not_exist".*"data":null'
	refused http400-1 400 json 'new_api_error'
	refused http401-1 401 json '无效的令牌 \(request id: [0-9]{23}'
	refused http403-1 403 json 'new_api_error'
	refused http404-1 404 json 'Invalid URL \(GET /tencent-vod/'
	refused http429-1 429 json 'new_api_error'
	refused http500-1 500 json '"code":"get_task_failed"'
	refused http502-1 502 text/html '502 Bad Gateway'
	refused http503-1 503 json 'model_not_found'
	refused http504-1 504 text/html '504 Gateway Time-out'
	refused http524-1 524 text/plain '^error code: 524$'
	refused http418-1 418 json 'new_api_error'
	refused http302-1 302 text/html '302 Found'
	header "location: $base/elsewhere" http302
	refused http301-1 301 text/html 'Moved Permanently'
	header "location: $base/elsewhere" http301
	says http200-1 '$t->{Status}'
	ask http204-1
	[ "$http" = 204 ]
	result "http204" $? "HTTP $http"
	ask http429-empty-1
	[ "$http" = 429 ] && [ "$size" = 0 ]
	result "http429-empty: the IP limiter's answer" $? "$http, $size bytes"
	ask http429-ra7-1
	header 'retry-after: 7' ra7
	ask http503-rad60-1
	header 'retry-after: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} .* GMT' \
		rad60
	for code in ResourceNotFound RequestLimitExceeded InternalError \
		InvalidParameterValue.TaskId
	do
		says "e$code" "\$r->{Error}{Code} eq '$code' && \$r->{RequestId}"
	done
	ask double429-1
	[ "$http" = 429 ] &&
		perl -MJSON::PP -0777 -ne 'my $p = JSON::PP->new->utf8;
			$p->incr_parse($_); my @d = $p->incr_parse;
			exit !(@d == 2 && $d[0]{error} && $d[1]{Response}{Status})' \
			"$room/body"
	result "double429" $? "HTTP $http"
	ask two-1
	perl -MJSON::PP -0777 -ne 'my $p = JSON::PP->new->utf8;
		$p->incr_parse($_); my @d = $p->incr_parse;
		exit !(@d == 2 && $d[0]{Response} && $d[1]{Response})' "$room/body"
	result "two documents" $?

	# trouble that ends
	refused http503-x2-1 503 json .
	refused http503-x2-1 503 json .
	says http503-x2-1 '$t->{Status} eq "FINISH"'
	breaks reset-x1-1 56
	says reset-x1-1 '$t->{Status} eq "FINISH"'
	says nofile-x1-1 '!exists $t->{Output}'
	says nofile-x1-1 '$t->{Output}{FileInfos}[0]{FileUrl}'
	says delay5000-x0-1 '$t->{Status} eq "FINISH"'
}

check_paths()
{
	local url

	fetch "$base/v1/nothing"
	[ "$http" = 404 ] && grep -q 'Invalid URL (GET /v1/nothing)' "$room/body"
	result "unknown path below /v1" $?
	fetch "$base/nothing"
	[ "$http" = 200 ] && grep -q '<html' "$room/body"
	result "any other path gets the web application" $?
	fetch "$base/tencent-vod/v1/query/a/b"
	[ "$http" = 200 ] && grep -q '<html' "$room/body"
	result "an id has no slash" $?
	says image-9 '$t'
	url=$(grep -oE 'http://[^"]*\.png' "$room/body")
	fetch "$url"
	[ "$type" = image/png ] &&
		[ "$(head -c 4 "$room/body" | tail -c 3)" = PNG ]
	result "the file of an image" $? "$type"
	fetch "$base/files/x.mp4"
	[ "$type" = video/mp4 ] && grep -q ftyp "$room/body"
	result "the file of a video" $? "$type"
	ask "$(printf 'a%.0s' {1..256})"
	[ "$http" = 200 ]
	result "a long id" $?
	header 'x-oneapi-request-id: [0-9]{23}' "every answer"
	ask quote%22-1
	true_of "an id is escaped" '$t->{TaskId} eq "quote\"-1"'
}

check_figures()
{
	fetch "$base/_reset"
	stats "tasks=1" '$j->{requests} == 0 && !%{$j->{tasks}} &&
		$j->{connections} == 0 && $j->{max_in_flight} == 0'
	ask n-1
	ask n-1 -H 'Authorization: Bearer k'
	ask http302-n -L
	ask http302-m -L -H 'Authorization: Bearer k'
	fetch "$base/other"
	stats "x=1" '$j->{requests} == 4 && $j->{tasks}{"n-1"} == 2 &&
		$j->{with_key} >= 2 && $j->{elsewhere} == 2 &&
		$j->{elsewhere_with_key} == 1 && $j->{other_paths} == 1 &&
		$j->{in_flight} == 0 && $j->{max_in_flight} == 1 &&
		$j->{connections} == 5'
	stats "tasks=0" '!exists $j->{tasks} && $j->{known_tasks} == 3'
	fetch "$base/_tasks"
	true_of "_tasks" '@$j == 3 &&
		join(" ", sort map { "$_->{id} $_->{requests}" } @$j) eq
			"http302-m 1 http302-n 1 n-1 2" &&
		!grep { $_->{end_ms} > $_->{first_ms} ||
			$_->{last_ms} < $_->{first_ms} } @$j'
	stats "task=none" '$j->{requests} == 0 && !exists $j->{first_ms}'

	curl -s --noproxy '*' -Z --parallel-immediate --parallel-max 20 \
		"$base/tencent-vod/v1/query/delay300-[1-20]" >/dev/null 2>&1
	stats "tasks=0" '$j->{max_in_flight} == 20 && $j->{connections} == 25'
	fetch "$base/_reset"
	curl -s --noproxy '*' "$base/tencent-vod/v1/query/k-[1-3]" >/dev/null
	fetch "$base/_log?n=2"
	true_of "_log" '@$j == 2 && $j->[1]{id} eq "k-3" && !$j->[1]{via} &&
		$j->[0]{connection} == $j->[1]{connection} &&
		$j->[1]{status} == 200 && $j->[1]{ms} >= $j->[0]{ms}'
	stats "tasks=0" '$j->{connections} == 1 && $j->{requests} == 3'

	fetch "$base/_reset"
	fetch http://example.com/tencent-vod/v1/query/p-1 --noproxy '' -x "$base" \
		-H 'Authorization: Bearer k'
	[ "$http" = 200 ]
	result "a proxied request is answered" $? "HTTP $http"
	fetch https://example.com/ --noproxy '' -x "$base"
	stats "x=1" '$j->{proxied} == 2 && $j->{proxied_with_key} == 1 &&
		$j->{tasks}{"p-1"} == 1'
	fetch "$base/_log"
	true_of "_log of proxied requests" '$j->[0]{via} eq "absolute" &&
		$j->[1]{via} eq "CONNECT"'
}

check_keys()
{
	start --key one --key two
	grep -q '^listening on 127.0.0.1:[0-9]*$' "$room/stdout"
	result "the line that it is ready" $?
	refused k-1 401 json '无效的令牌'
	ask k-1 -H 'Authorization: Bearer three'
	[ "$http" = 401 ]
	result "a wrong key" $?
	for key in one two
	do
		ask k-1 -H "Authorization: Bearer $key"
		[ "$http" = 200 ]
		result "key $key" $?
	done
	stats x=1 '$j->{unauthorized} == 2 && $j->{with_key} == 3 &&
		$j->{requests} == 4 && $j->{tasks}{"k-1"} == 2'
	fetch "$base/_key?set=four&set=five"
	ask k-1 -H 'Authorization: Bearer one'
	[ "$http" = 401 ]
	result "a replaced key" $?
	ask k-1 -H 'Authorization: Bearer five'
	[ "$http" = 200 ]
	result "a new key" $?
	fetch "$base/_key"
	ask k-1
	[ "$http" = 200 ]
	result "no key: everything is accepted" $?
}

check_process()
{
	local orphan status

	# more connections than allowed wait, and then get their turn
	start --max-connections 2
	curl -s --noproxy '*' -Z --parallel-immediate --parallel-max 6 \
		-H 'Connection: close' -w '%{http_code}\n' -o /dev/null \
		"$base/tencent-vod/v1/query/delay50-close-[1-6]" \
		>"$room/codes" 2>/dev/null
	[ "$(sort -u "$room/codes")" = 200 ]
	result "all are answered" $? "$(cat "$room/codes")"
	stats tasks=0 '$j->{requests} == 6 && $j->{max_in_flight} == 2'
	kill -INT "$pid"
	wait "$pid"
	status=$?
	[ "$status" = 0 ]
	result "SIGINT ends it with 0" $? "$status"

	sh -c '"$0" --parent $$ --port-file "$1" >"$2" & echo $!
		until [ -s "$1" ]; do sleep 0.01; done' \
		"$simulator" "$room/orphan" /dev/null >"$room/orphan_pid"
	orphan=$(cat "$room/orphan_pid")
	for _ in {1..300}
	do
		kill -0 "$orphan" 2>/dev/null || break
		sleep 0.01
	done
	! kill -0 "$orphan" 2>/dev/null
	status=$?
	result "it ends with its parent" "$status"
	[ "$status" = 0 ] || kill "$orphan"

	if command -v openssl >/dev/null
	then
		openssl req -x509 -newkey rsa:2048 -nodes -days 1 \
			-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
			-keyout "$room/key.pem" -out "$room/cert.pem" 2>/dev/null
		start --tls "$room/cert.pem" "$room/key.pem"
		base=https${base#http}
		ask tls-1 --cacert "$room/cert.pem"
		true_of "TLS" '$t->{Output}{FileInfos}[0]{FileUrl} =~ m{^https://}'
		ask resetbody-tls --cacert "$room/cert.pem"
		[ "$exit" = 56 ]
		result "RST below TLS" $? "curl $exit"
	fi
}

start
main_pid=$pid
check_kinds
check_course
check_endings
check_transport
check_refusals
check_paths
check_figures
check_keys
check_process

kill "$main_pid"
wait "$main_pid"
result "SIGTERM ends it with 0" $?

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
