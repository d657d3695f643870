# Shared by the scripts of this directory: messages, the repository's root, and the usual refusals.
# shellcheck shell=bash

# The repository's root, whatever the directory a script is called from.
repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository

# Debian keeps mke2fs, sfdisk and their like where an ordinary user's PATH does not look.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# Progress goes to stderr: stdout is for a script's result.
say() {
	printf '%s\n' "$*" >&2
}

heading() {
	printf '\n== %s\n' "$*" >&2
}

die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit 2
}

have() {
	command -v "$1" >/dev/null 2>&1
}

# need TOOL...: refuses in one line that names every tool that is absent.
need() {
	local tool missing=()
	for tool in "$@"; do
		have "$tool" || missing+=("$tool")
	done
	[ "${#missing[@]}" -eq 0 ] || die "needs ${missing[*]}, not found here; run scripts/setup"
}

# usage_of FILE: a script's help is the comment block at its top.
usage_of() {
	sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"
}

# The directory of build results: Cargo's, so that one setting moves both.
target_directory() {
	printf '%s\n' "${CARGO_TARGET_DIR:-$repository/target}"
}
