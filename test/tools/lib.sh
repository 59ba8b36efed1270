# shellcheck shell=bash
#
# What the scripts in this folder share. Source it, do not run it.

set -euo pipefail
exec </dev/null

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
tools=$top/test/tools

# The caller's locale, make flags and libpq settings must not leak into ours.
export LANG=C.UTF-8 LC_ALL=C.UTF-8
unset MAKEFLAGS MFLAGS MAKELEVEL
for name in ${!PG@}; do
	[ "$name" = PG_CONFIG ] || unset "$name"
done

# With assertions on, PostgreSQL's headers are clean under these, and so are we.
strict_flags='-Wall -Wextra -Werror'

die() {
	echo "$(basename "$0"): $*" >&2
	exit 1
}

heading() {
	printf '\n== %s ==\n' "$*"
}

is_root() {
	[ "$(id -u)" = 0 ]
}

as_root() {
	if is_root; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "needs root or sudo to run: $*"
	fi
}

# major: the version of PG_CONFIG's PostgreSQL, of the newest server that Debian
# has installed, or of the one that it would.
major() {
	local version servers

	if version=$("${PG_CONFIG:-pg_config}" --version 2>/dev/null); then
		sed 's/[^0-9]*\([0-9]*\).*/\1/' <<<"$version"
	elif servers=$(compgen -G '/usr/lib/postgresql/*/bin/postgres'); then
		cut -d / -f 5 <<<"$servers" | sort -n | tail -n 1
	else
		apt-cache depends postgresql 2>/dev/null |
			sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p'
	fi
}

# PostgreSQL refuses to run as root: there, an unprivileged user takes over.
as_server() {
	local user=postgres

	if is_root; then
		id "$user" >/dev/null 2>&1 || user=nobody
		setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups env HOME=/ "$@"
	else
		"$@"
	fi
}

# scratch NAME: make a folder that the server's user owns, reached by everybody,
# and with a name short enough to keep a Unix socket in it.
scratch() {
	as_server mktemp -d "/var/tmp/tierlimit-$1.XXXXXX"
}

# copy_tree DIR: the sources, without what is built or git's, but with .gitignore, so
# that a copy of the copy lacks the same.
copy_tree() {
	mkdir -p "$1"
	tar -C "$top" --exclude=.git --exclude-vcs-ignores -cf - . | tar --no-same-owner -C "$1" -xf -
}

# stage DIR FLAGS: put a copy of the tree into DIR/src and a private PostgreSQL
# into DIR/pg, compile the one with FLAGS and install it into the other.
# Moves to DIR, which the server's user can enter, unlike perhaps where we were.
# Sets pg_config and bin, the private PostgreSQL's.
stage() {
	cd "$1"
	as_server mkdir src
	tar -C "$top" --exclude=.git --exclude-vcs-ignores -cf - . | as_server tar -C src -xf -
	pg_config=$(as_server "$1/src/test/tools/prefix" "$1/pg")
	bin=$("$pg_config" --bindir)
	as_server make -s -C src -j"$(nproc)" with_llvm=no \
		PG_CONFIG="$pg_config" COPT="$2" install
}

# stop_servers DIR: stop every server that has its data below DIR. A server's
# working folder is its data, which tells it from a stranger that has got the
# number of a dead one.
stop_servers() {
	local file pid

	for file in $(find "$1/" -name postmaster.pid); do
		pid=$(head -n 1 "$file")
		[ "$(as_server readlink "/proc/$pid/cwd")" = "${file%/*}" ] || continue
		kill -INT "$pid"
		timeout 60 tail --pid="$pid" -f /dev/null || kill -QUIT "$pid"
	done
}

# npm_ci DIR: install what DIR's lock file names into DIR/node_modules, with the
# caller's own npm settings. If there is no getting it, fail soon, and clearly.
npm_ci() {
	local status=0

	timeout 120 npm ci --prefix="$1" --cache="$1/npm-cache" --fetch-retries=1 \
		--fetch-timeout=30000 --ignore-scripts --no-audit --no-fund \
		--no-update-notifier --loglevel=error >/dev/null || status=$?
	rm -rf "$1/npm-cache"
	if [ $status -ne 0 ]; then
		rm -rf "$1/node_modules"
		echo "npm could not install what $1/package-lock.json names" >&2
	fi
	return $status
}
