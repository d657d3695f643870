# Shared by the benchmarks: timing whole processes, and what to make of the times. Wants $bench, a folder
# for its own files.
# shellcheck shell=bash disable=SC2154

# With --cold. In a virtual machine the hypervisor may take freed memory back at once; then whoever runs
# first pays for getting it again. It is fetched here, outside the clock.
drop_caches() {
	local touched=/dev/shm/rehost-bench.$$
	sync
	printf '3\n' >/proc/sys/vm/drop_caches
	head -c "$(($(sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo) * 1024 / 3))" /dev/zero >"$touched" || true
	rm -f "$touched"
}

# measured OUTPUT COMMAND...: prints "SECONDS KIB" of one run, whose standard output goes to OUTPUT; what else
# it says is shown only when it fails.
measured() {
	local output=$1 start end
	shift
	[ -z "${cold-}" ] || drop_caches
	start=$EPOCHREALTIME
	/usr/bin/time -f %M -o "$bench/peak" "$@" >"$output" 2>"$bench/said" </dev/null || {
		cat "$bench/said" >&2
		die "failed: $*"
	}
	end=$EPOCHREALTIME
	printf '%s %s\n' "$(awk -v a="$start" -v b="$end" 'BEGIN { printf "%.3f", b - a }')" "$(tail -n 1 "$bench/peak")"
}

# $1 / $2, in hundredths.
ratio() {
	awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'
}

median() {
	sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

largest() {
	sort -n | tail -n 1
}

# of PROGRAM COLUMN LOG: what all its turns took (2: seconds, 3: KiB).
of() {
	awk -v program="$1" -v column="$2" '$1 == program { print $column }' "$3"
}

# as_json NAME LOG: the log of a case, lines of "PROGRAM SECONDS KIB", as one object.
as_json() {
	jq -Rn --arg name "$1" '{case: $name, runs: [inputs | split(" ") |
		{program: .[0], seconds: (.[1] | tonumber), peak_kib: (.[2] | tonumber)}]}' "$2"
}

machine() {
	printf '%s cores, %s, Linux %s\n' "$(nproc)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(uname -r)"
}
