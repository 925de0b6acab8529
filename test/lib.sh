# shellcheck shell=sh
#
# test/lib.sh: a throwaway server for test/run and test/demo, which source it.
#
# Everything lives in one new folder, SCRATCH: a copy of the sources and what
# is built from them, a copy of the server's installation with anyvod in it,
# data, sockets and logs.  Nothing is installed into the system and nothing
# is written into the project, so that two runs never meet and a run as root
# leaves no file behind that a later user could not write.  The server speaks
# on a socket in that folder only; the simulator on a free port of 127.0.0.1.
#
# PostgreSQL does not run as root: started by root, everything but the
# copying is done as user postgres, or nobody where there is none.
#
# What this file does not know: which tests there are, and what the demo
# shows.

# The project, and the server to test with.
TOP=$(cd "$(dirname "$0")/.." && pwd)
PG_CONFIG=$(command -v "${PG_CONFIG:-pg_config}")

# The number in the socket's name; there is no TCP port.
SOCKET_NUMBER=65432

SCRATCH=
AS_USER=
SIMULATOR_PID=
CHILD_PID=

die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

# Make SCRATCH and see to it that everything ends with this script.
throwaway_begin()
{
	umask 022
	drop_environment
	choose_user
	trap throwaway_end EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	make_scratch "${TMPDIR:-/tmp}" || make_scratch /tmp ||
		die "no temporary folder to work in; set TMPDIR"
	# what the user's own files say (.psqlrc, .proverc) must not matter
	HOME=$SCRATCH/home
	TMPDIR=$SCRATCH/tmp
	export HOME TMPDIR
	cd "$SCRATCH" || die "could not enter $SCRATCH"
	$AS_USER mkdir build home log root sockets src tmp
	$AS_USER chmod 700 sockets
}

# What an enclosing make, libpq's own variables or a proxy would change.
drop_environment()
{
	unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL CDPATH
	unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
	for variable in $(env | sed -n 's/^\(PG[A-Z]*\)=.*/\1/p')
	do
		unset "$variable"
	done
	LC_ALL=C
	export LC_ALL
	[ -z "${PG_TEST_TIMEOUT_DEFAULT:-}" ] ||
		export PGCTLTIMEOUT="$PG_TEST_TIMEOUT_DEFAULT"
}

choose_user()
{
	[ "$(id -u)" -eq 0 ] || return 0
	for user in postgres nobody
	do
		if id "$user" >/dev/null 2>&1
		then
			AS_USER="setpriv --reuid=$user --regid=$(id -g "$user") --init-groups"
			return 0
		fi
	done
	die "PostgreSQL does not run as root, and there is no user postgres"
}

# Below folder $1, if the user may use it and programs may run there; a
# socket's path may have 107 bytes, and the TAP tests make folders below.
make_scratch()
{
	[ ${#1} -le 50 ] || return 1
	SCRATCH=$(mktemp -d "$1/anyvod.XXXXXX") && SCRATCH=$(cd "$SCRATCH" && pwd -P) ||
		return 1
	[ -z "$AS_USER" ] || chown "$user" "$SCRATCH"
	if $AS_USER cp /bin/true "$SCRATCH/true" 2>/dev/null &&
		$AS_USER "$SCRATCH/true" 2>/dev/null
	then
		rm "$SCRATCH/true"
		return 0
	fi
	rm -rf "$SCRATCH"
	SCRATCH=
	return 1
}

# End what this script started, and only that; then remove SCRATCH.
throwaway_end()
{
	set +e
	trap - EXIT
	trap '' HUP INT TERM
	stop_child
	stop_simulator
	[ -n "$SCRATCH" ] || return 0
	find "$SCRATCH" -name postmaster.pid 2>/dev/null | while read -r pid_file
	do
		stop_server "${pid_file%/*}"
	done
	cd /
	if [ -n "${KEEP:-}" ]
	then
		echo "kept: $SCRATCH" >&2
	else
		rm -rf "$SCRATCH"
	fi
}

# End the command that "limited" runs, and wait for all of its process group:
# a TAP test stops its servers before it ends.
stop_child()
{
	[ -n "$CHILD_PID" ] || return 0
	kill "$CHILD_PID" 2>/dev/null
	wait "$CHILD_PID" 2>/dev/null
	tries=0
	while kill -s 0 -- "-$CHILD_PID" 2>/dev/null && [ $tries -lt 200 ]
	do
		tries=$((tries + 1))
		sleep 0.05
	done
	kill -s KILL -- "-$CHILD_PID" 2>/dev/null
	CHILD_PID=
}

# Run a command for at most $1 seconds, in a process group of its own (that
# is what timeout makes).  Waiting for it in the background lets a signal be
# answered at once.
limited()
{
	limit=$1
	shift
	# split on purpose: a command
	# shellcheck disable=SC2086
	timeout -k 10 "$limit" $AS_USER "$@" </dev/null &
	CHILD_PID=$!
	wait "$CHILD_PID" && status=0 || status=$?
	CHILD_PID=
	return "$status"
}

# Copy the sources.
copy_sources()
{
	tar -C "$TOP" -cf sources.tar --exclude=./.git --exclude=./build \
		--exclude='*.o' --exclude='*.bc' --exclude='*.so' .
	$AS_USER tar -C src -xf sources.tar
	rm sources.tar
}

# make in folder $1 of the copied sources, with the arguments that follow.
# TEST_CC and TEST_CFLAGS are another compiler and its flags.
make_in()
{
	folder=$1
	shift
	limited 600 make -s -j "$(nproc)" -C "$SCRATCH/src/$folder" \
		PG_CONFIG="$PG_CONFIG" ${TEST_CC:+"CC=$TEST_CC"} \
		${TEST_CFLAGS:+"CFLAGS=$TEST_CFLAGS"} "$@"
}

# Build the extension (warnings are errors; LLVM bitcode is for installed
# builds) and put it into a private copy of the server's installation.
# PostgreSQL's programs find their other folders relative to their own.
build_server()
{
	bin=$("$PG_CONFIG" --bindir)
	lib=$("$PG_CONFIG" --pkglibdir)
	share=$("$PG_CONFIG" --sharedir)
	BIN=$SCRATCH/root$bin

	make_in . with_llvm=no COPT="${COPT:+$COPT }-Werror" || return 1
	$AS_USER mkdir -p "root$bin" "root$lib" "root${share%/*}" &&
		$AS_USER cp -L "$bin"/* "root$bin" &&
		$AS_USER cp -R "$share" "root${share%/*}" || return 1
	for entry in "$lib"/*
	do
		case ${entry##*/} in
		bitcode | pgxs) ;;
		*) $AS_USER cp -RL "$entry" "root$lib" || return 1 ;;
		esac
	done
	make_in . with_llvm=no DESTDIR="$SCRATCH/root" install
}

# The simulator, a program that plays the gateway.
build_simulator()
{
	make_in test/simulator BUILD="$SCRATCH/build/simulator"
	ANYVOD_SIMULATOR=$SCRATCH/build/simulator/simulator
	export ANYVOD_SIMULATOR
}

# Start the simulator with the arguments given; sets SIMULATOR_PORT.
# shellcheck disable=SC2120
start_simulator()
{
	# the log is there before the first look at it
	: >log/simulator
	$AS_USER "$ANYVOD_SIMULATOR" --port 0 --parent $$ "$@" \
		>>log/simulator 2>&1 </dev/null &
	SIMULATOR_PID=$!
	SIMULATOR_PORT=
	tries=0
	while [ -z "$SIMULATOR_PORT" ]
	do
		if ! kill -0 "$SIMULATOR_PID" 2>/dev/null || [ $tries -ge 200 ]
		then
			cat log/simulator >&2
			echo "the simulator did not start" >&2
			return 1
		fi
		tries=$((tries + 1))
		sleep 0.05
		SIMULATOR_PORT=$(sed -n 's/^listening on .*:\([0-9][0-9]*\)$/\1/p' \
			log/simulator)
	done
}

stop_simulator()
{
	[ -n "$SIMULATOR_PID" ] || return 0
	kill "$SIMULATOR_PID" 2>/dev/null || true
	wait "$SIMULATOR_PID" 2>/dev/null || true
	SIMULATOR_PID=
}

# A fresh cluster with anyvod preloaded, started; the environment then leads
# psql to it.  Lines of configuration are read from standard input.
start_server()
{
	$AS_USER "$BIN/initdb" -D data -U postgres --auth=trust --no-locale \
		--encoding=UTF8 --no-sync >log/initdb 2>&1 </dev/null || {
		cat log/initdb >&2
		echo "initdb failed" >&2
		return 1
	}
	{
		cat <<-END
			listen_addresses = ''
			unix_socket_directories = '$SCRATCH/sockets'
			port = $SOCKET_NUMBER
			shared_preload_libraries = 'anyvod'
			fsync = off
			timezone = 'UTC'
			log_timezone = 'UTC'
		END
		cat
	} >>data/postgresql.conf
	$AS_USER "$BIN/pg_ctl" -D data -l log/server -w start \
		>log/pg_ctl 2>&1 </dev/null || {
		cat log/pg_ctl log/server >&2
		echo "the server did not start" >&2
		return 1
	}
	PGHOST=$SCRATCH/sockets
	PGPORT=$SOCKET_NUMBER
	PGUSER=postgres
	PGDATABASE=postgres
	PATH=$BIN:$PATH
	export PGHOST PGPORT PGUSER PGDATABASE PATH
}

# Stop the server that runs in data folder $1, if it still runs.  A number
# that is in use again by another process is not touched.
stop_server()
{
	pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || return 0
	[ "$(readlink "/proc/$pid/cwd")" = "$1" ] || return 0
	$AS_USER "$BIN/pg_ctl" -D "$1" -m immediate -w stop >/dev/null 2>&1 </dev/null
}
