# shellcheck shell=bash
# For scripts that test on bare Debian machines in chroots: test-bare, test-deb. Needs root and
# debootstrap.

say() {
	echo "==== ${0##*/}: $*"
}

# Runs the script again in namespaces of its own, with CHROOT_WORK a folder of its own: mounts and
# processes end with them, so that nothing outside can be reached by the clean-up, or left behind.
enter_namespaces() {
	test -z "${CHROOT_WORK-}" || return 0
	test "$(id -u)" = 0 || { echo "$0: must be root" >&2; exit 1; }
	command -v debootstrap >/dev/null || { echo "$0: needs debootstrap" >&2; exit 1; }
	CHROOT_WORK=$(mktemp -d)
	export CHROOT_WORK
	set -m # its own process group, so that Ctrl-C comes here and what follows goes in order
	unshare --mount --propagation private --pid --fork --kill-child "deploy/${0##*/}" "$@" &
	inside=$!
	trap 'kill -KILL $inside 2>/dev/null || :
		wait $inside 2>/dev/null || :
		rm -rf --one-file-system "$CHROOT_WORK"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	wait $inside
	exit
}

# A bare Debian 12, or another release, with these packages in a folder; it gets its packages as
# this machine does.
make_debian() {
	local base=$1 packages=$2 release=${3-bookworm} mirror
	# shellcheck disable=SC2016 # apt fills it in
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | sort -u | head -n 1)
	say "a bare Debian: $release"
	debootstrap --variant=minbase --include="$packages" "$release" "$base" ${mirror:+"$mirror"} >"$CHROOT_WORK/log" ||
		{ cat "$CHROOT_WORK/log"; exit 1; }
	apt-config dump | grep -E '^Acquire::(https?::|Check-)' >"$base/etc/apt/apt.conf.d/00outside" || :
	cp -L /etc/resolv.conf /etc/hosts "$base/etc/"
	test -z "${NODE_EXTRA_CA_CERTS-}" || cp -L "$NODE_EXTRA_CA_CERTS" "$base/etc/outside.pem" # for npm

	# debootstrap keeps what it downloaded; a bare machine has no package lists either.
	rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
}

mount_system() {
	mount -t proc proc "$1/proc"
	mount --rbind /sys "$1/sys"
	mount --rbind /dev "$1/dev"
}
