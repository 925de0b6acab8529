# shellcheck shell=sh
#
# test/systems.sh: small Debian systems to build and test in, for test/matrix
# and test/deb, which source it.
#
# Each release that carries a supported PostgreSQL is a folder that debootstrap
# makes from the mirror in this machine's apt sources.  They are kept, and used
# again; remove the folder to have them made afresh.  What runs in one runs in
# a copy of its own: what it writes lies above the system (overlayfs) and is
# removed with it, it sees no process but its own, and those end with it.
# What is mounted for it is mounted for it alone.
#
#	MATRIX_CACHE=...	where the systems are kept
#	MATRIX_MIRROR=...	where Debian comes from
#
# Wants root, and network access the first time.

# version:release; experimental is sid with that one package from there
RELEASES="15:bookworm 17:trixie 18:sid 19:experimental"

# In a system, /usr/local/bin holds what stands in for others.
INSIDE=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

TOP=$(cd "$(dirname "$0")/.." && pwd)
PG_CONFIG=${PG_CONFIG:-pg_config}
CACHE=${MATRIX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/anyvod/matrix}

scratch=
unfinished=
running=

die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

# A scratch folder, with a copy of the sources in it that nobody edits, and
# the end of both.
systems_begin()
{
	[ "$(id -u)" -eq 0 ] || die "needs root, for chroot and debootstrap"
	"$TOP/test/setup" debootstrap
	trap systems_end EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	umask 022
	unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL CDPATH
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/anyvod-${0##*/}.XXXXXX")
	# a user that is not root works below
	chmod 755 "$scratch"
	mkdir -p "$CACHE" "$scratch/exchange/anyvod"
	tar -C "$TOP" -cf - --exclude=./.git --exclude=./build \
		--exclude='*.o' --exclude='*.bc' --exclude='*.so' . |
		tar -C "$scratch/exchange/anyvod" --no-same-owner -xf -
	mirror=$(mirror)
	[ -n "$mirror" ] ||
		die "no Debian mirror in apt's sources; set MATRIX_MIRROR"
}

systems_end()
{
	trap - EXIT
	trap '' HUP INT TERM
	# what runs in a copy ends with the process that made it
	[ -z "$running" ] || kill -s KILL "$running" 2>/dev/null || true
	[ -z "$running" ] || wait "$running" 2>/dev/null || true
	remove_unfinished
	[ -z "$scratch" ] || rm -rf --one-file-system "$scratch"
}

# Where apt gets Debian's packages from.
mirror()
{
	if [ -n "${MATRIX_MIRROR:-}" ]
	then
		echo "$MATRIX_MIRROR"
		return 0
	fi
	# the fields are apt-get's to fill in
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI)' \
		'Created-By: Packages' |
		sed -n 's/^Debian main //p' | head -n 1
}

# The release that carries PostgreSQL $1.
release_of()
{
	echo "$RELEASES" | tr ' ' '\n' | sed -n "s/^$1://p"
}


#
# Making systems
#

# Remove a system that was not finished.  debootstrap mounts what it needs
# and unmounts it; if it was interrupted, nothing of this machine may be
# reachable from the folder that is removed.
remove_unfinished()
{
	[ -n "$unfinished" ] || return 0
	awk -v folder="$unfinished/" 'index($2, folder) == 1 { print $2 }' \
		/proc/mounts | sort -r | while read -r mounted
	do
		umount "$mounted"
	done
	rm -rf --one-file-system "$unfinished"
	unfinished=
}

# How apt is called.  A mirror may stand still, its lists past their date; they
# are signed all the same.
APT_GET="apt-get -q -y -o Acquire::Check-Valid-Until=false"

# apt-get in the system in folder $1.
apt_in()
{
	root=$1
	shift
	# split on purpose: a command
	# shellcheck disable=SC2086
	chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH="$INSIDE" \
		$APT_GET -o DPkg::Path="$INSIDE" --no-install-recommends "$@"
}

# Has the system in folder $1 these packages?
has_packages()
{
	root=$1
	shift
	# the field is dpkg-query's to fill in
	# shellcheck disable=SC2016
	[ "$(chroot "$root" dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>&1 |
		sort -u)" = installed ]
}

# A bare system of release $2, with what it takes to get PostgreSQL $1 there.
make_bare_system()
{
	base=$2
	[ "$2" != experimental ] || base=sid
	debootstrap --variant=minbase "$base" "$unfinished" "$mirror" || return 1
	printf '#!/bin/sh\nexit 101\n' >"$unfinished/usr/sbin/policy-rc.d"
	chmod 755 "$unfinished/usr/sbin/policy-rc.d"
	apt-config dump | sed -n '/^Acquire::https*::Proxy /p' \
		>"$unfinished/etc/apt/apt.conf.d/90proxy"
	# a package's script calls it, and it refuses to work without /proc
	ln -s /bin/true "$unfinished/usr/local/bin/systemd-tmpfiles"
	if [ "$2" = experimental ]
	then
		echo "deb $mirror experimental main" \
			>"$unfinished/etc/apt/sources.list.d/experimental.list"
		printf '%s\n' "Package: src:postgresql-$1" \
			"Pin: release a=experimental" "Pin-Priority: 500" \
			>"$unfinished/etc/apt/preferences.d/experimental"
	fi
}

# Let apt take from release $2, for the system in folder $1, what that has not.
add_release()
{
	echo "deb $mirror $2 main" >"$1/etc/apt/sources.list.d/older.list"
	printf '%s\n' "Package: *" "Pin: release n=$2" "Pin-Priority: 100" \
		>"$1/etc/apt/preferences.d/older"
}

# Have system $1 of PostgreSQL $2 and release $3 with the packages that
# follow, or leave no trace of it.  OLDER is a release to take more from.
make_system()
{
	unfinished=$CACHE/$1.new
	made=$CACHE/$1
	version=$2
	release=$3
	shift 3
	if [ ! -d "$made" ]
	then
		rm -rf --one-file-system "$unfinished"
		make_bare_system "$version" "$release" || return 1
		[ -z "${OLDER:-}" ] || add_release "$unfinished" "$OLDER"
		apt_in "$unfinished" update &&
			apt_in "$unfinished" install "$@" &&
			apt_in "$unfinished" clean &&
			mv "$unfinished" "$made" || return 1
	elif ! has_packages "$made" "$@"
	then
		apt_in "$made" update && apt_in "$made" install "$@" &&
			apt_in "$made" clean || return 1
	fi
	unfinished=
}

# have_system NAME VERSION LOG PACKAGE...: the same, saying so.  Two runs
# would make the same systems, so one waits for the other.
have_system()
{
	log=$3
	name=$1
	pg=$2
	shift 3
	if [ -d "$CACHE/$name" ] && has_packages "$CACHE/$name" "$@"
	then
		return 0
	fi
	echo "making a system with PostgreSQL $pg: $name ..." >&2
	exec 9>"$CACHE/lock"
	flock 9
	make_system "$name" "$pg" "$(release_of "$pg")" "$@" \
		>"$log" 2>&1 </dev/null && made_it=0 || made_it=1
	exec 9>&-
	remove_unfinished
	return "$made_it"
}


#
# Working in them
#

# in_system NAME COMMAND...: run a command in a copy of a system.  The copy
# has the folder $scratch/exchange as /exchange; all else that it writes is
# gone afterwards.  The first process of a copy waits for the others, as
# servers leave orphans behind.
in_system()
{
	copy=$(mktemp -d "$scratch/copy.XXXXXX")
	mkdir "$copy/above" "$copy/work" "$copy/root"
	system=$1
	shift
	# the variables are those of the inner shell
	# shellcheck disable=SC2016
	unshare --mount --pid --ipc --fork --kill-child sh -euc '
		root=$1/root
		mount -t overlay overlay \
			-o "lowerdir=$2,upperdir=$1/above,workdir=$1/work" "$root"
		mount -t proc proc "$root/proc"
		mkdir -p "$root/dev/shm" "$root/exchange"
		mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
		mount --bind "$3" "$root/exchange"
		path=$4
		shift 4
		chroot "$root" env -i HOME=/root LC_ALL=C PATH="$path" \
			DEBIAN_FRONTEND=noninteractive "$@" &
		wait $!
	' sh "$copy" "$CACHE/$system" "$scratch/exchange" "$INSIDE" \
		"$@" </dev/null &
	running=$!
	wait "$running" && status=0 || status=$?
	running=
	rm -rf --one-file-system "$copy"
	return "$status"
}
