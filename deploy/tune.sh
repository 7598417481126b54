#!/bin/bash
# Matches this host to the broker's reactors: queues of the network card and their interrupts, packet
# steering, frequency governor, kernel settings.
#
#   tune.sh [--dry-run]   show what would be changed, and why (the default)
#   tune.sh --apply       change it, and remember what was there before
#   tune.sh --undo        put that back
#
#   -i, --interface NAME  the card (default: the one of the default route)
#   -c, --config FILE     the broker's configuration (default: /etc/broker/broker.conf)
#       --cpus LIST       the reactors' cpus, "0,2,4-7", instead of asking `broker --check`
#       --busy-poll       also let sleeping sockets look for packets for 50 us (costs CPU)
#       --state FILE      what --undo needs (default: /var/lib/broker-tune)
#       --root DIR        where proc and sys are, for tests
#
# Nothing of this outlives a reboot but the state file: deploy/ec2 runs it at every boot.
set -euo pipefail
shopt -s extglob nullglob

mode=dry-run interface='' config=/etc/broker/broker.conf cpus='' state=/var/lib/broker-tune root='' busy_poll=

fail() {
	echo "tune.sh: $*" >&2
	exit 1
}

usage() {
	sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
}

while test $# -gt 0; do
	case $1 in
	--dry-run | --apply | --undo) mode=${1#--} ;;
	--busy-poll) busy_poll=1 ;;
	-i | --interface | -c | --config | --cpus | --state | --root)
		test $# -gt 1 || fail "$1 wants a value"
		case $1 in
		-i | --interface) interface=$2 ;;
		-c | --config) config=$2 ;;
		--cpus) cpus=$2 ;;
		--state) state=$2 ;;
		--root) root=$2 ;;
		esac
		shift
		;;
	-h | --help)
		usage
		exit
		;;
	*) fail "what is \"$1\"? Try tune.sh --help" ;;
	esac
	shift
done

net() {
	echo "$root/sys/class/net/$interface/$1"
}

# ---- changing things, and remembering -----------------------------------------------------------

changes=0

# Before it is changed, so that an --apply that was interrupted can be undone too.
remember() {
	printf '%s\t%s\t%s\n' "$@" >>"$state"
}

forget_last() {
	sed -i '$d' "$state"
}

# set_file PATH VALUE WHY
set_file() {
	local path=$1 value=$2 why=$3 before
	test -e "$path" || return 0
	before=$(cat "$path" 2>/dev/null) || return 0
	test "$before" != "$value" || return 0
	changes=$((changes + 1))
	printf '%s: %s -> %s\n    %s\n' "${path#"$root"}" "${before:-(nothing)}" "$value" "$why"
	test "$mode" = apply || return 0
	remember file "$path" "$before"
	if ! { echo "$value" >"$path"; } 2>/dev/null; then
		forget_last
		echo "    REFUSED by the kernel: left as it is"
	fi
}

# What is there may be more than is needed: others on this host may need it.
raise_file() {
	local before
	before=$(cat "$1" 2>/dev/null) || return 0
	if test "$2" = 0 || test "$before" -lt "$2"; then
		set_file "$@"
	fi
}

queues='' # after what has been said; nothing: as many as there are

set_queues() {
	local want=$1 now max
	now=$(ethtool -l "$interface" 2>/dev/null | awk '/^Current/ { c = 1 } c && /^Combined:/ { print $2 }') || :
	max=$(ethtool -l "$interface" 2>/dev/null | awk '/^Combined:/ { print $2; exit }') || :
	case $now,$max in
	*[!0-9,]* | ,* | *,)
		echo "$interface: its number of queues cannot be changed (ethtool -l)"
		return
		;;
	esac
	test "$want" -le "$max" || want=$max
	test "$now" != "$want" || return 0
	changes=$((changes + 1))
	printf 'ethtool -L %s combined %s (now %s)\n    %s\n' "$interface" "$want" "$now" \
		"one receive queue per reactor: each core handles the packets of its own connections"
	if test "$mode" != apply; then
		queues=$want
		echo "    what follows is said of the queues that are there now; new ones get the same"
		return
	fi
	remember queues "$interface" "$now"
	if ! ethtool -L "$interface" combined "$want"; then
		forget_last
		echo "    REFUSED by the card: left as it is"
	fi
}

undo() {
	test -e "$state" || fail "$state is not there: nothing to undo"
	# The last change goes first: queues must be there before what is said about them.
	tac "$state" | while IFS=$'\t' read -r kind what before; do
		case $kind in
		file)
			echo "$what: back to ${before:-(nothing)}"
			{ echo "$before" >"$what"; } 2>/dev/null || echo "    REFUSED by the kernel"
			;;
		queues)
			echo "ethtool -L $what combined $before"
			ethtool -L "$what" combined "$before" || echo "    REFUSED by the card"
			;;
		esac
	done
	rm "$state"
}

if test "$mode" = undo; then
	undo
	exit
fi

# ---- what is there ------------------------------------------------------------------------------

expand() {
	local part
	for part in ${1//,/ }; do
		seq "${part%-*}" "${part#*-}"
	done
}

if test -n "$cpus"; then
	[[ $cpus =~ ^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$ ]] || fail "--cpus wants a list such as 0,2,4-7"
	mapfile -t reactors < <(expand "$cpus")
else
	plan=$(broker -c "$config" --check) || fail "broker -c $config --check says no; or give --cpus"
	mapfile -t reactors < <(sed -n 's/^  reactor [0-9]*: cpu \([0-9]*\).*/\1/p' <<<"$plan")
	test ${#reactors[@]} -gt 0 || fail "the reactors are not pinned (placement = \"none\"): there is nothing to match"
fi
test ${#reactors[@]} -gt 0 || fail "--cpus $cpus names none"

if test -z "$interface"; then
	interface=$(awk '$2 == "00000000" { print $1; exit }' "$root/proc/net/route" 2>/dev/null) || :
	test -n "$interface" || fail "no default route: name the card with --interface"
fi
test -d "$root/sys/class/net/$interface" || fail "there is no interface $interface"

if test "$mode" = apply; then
	test -w "$root/proc/sys/net/core/somaxconn" || fail "must be root to change anything"
	test ! -e "$state" || fail "$state is there already: --undo first"
	: >"$state"
fi

# "5" as the kernel writes a set of cpus: 32 bits at a time, the highest first.
mask() {
	local words=() cpu i text
	for cpu; do
		while test ${#words[@]} -le $((cpu / 32)); do
			words+=(0)
		done
		words[cpu / 32]=$((words[cpu / 32] | 1 << cpu % 32))
	done
	text=$(printf '%x' "${words[-1]}")
	for ((i = ${#words[@]} - 2; i >= 0; i--)); do
		text+=$(printf ',%08x' "${words[i]}")
	done
	echo "$text"
}

# The kernel pads masks to its number of cpus: compare without the leading zeros.
same_mask() {
	test "${1##*([0,])}" = "${2##*([0,])}"
}

set_mask() {
	test -e "$1" || return 0
	same_mask "$(cat "$1" 2>/dev/null)" "$2" || set_file "$@"
}

echo "$interface and ${#reactors[@]} reactors on cpus ${reactors[*]}: $mode"

# ---- network card -------------------------------------------------------------------------------

set_queues ${#reactors[@]}

rx=("$(net queues)"/rx-*) tx=("$(net queues)"/tx-*)

# The interrupts of its queues, in their order: "ens5-Tx-Rx-3", "mlx5_comp3@pci:...", "virtio0-input.3".
# The number at the end of the name is the queue's; those of the card as a whole have none.
mapfile -t irqs < <(
	for irq in "$(net device/msi_irqs)"/* "$(net device/..)"/msi_irqs/*; do
		awk -v irq="${irq##*/}:" '$1 == irq { sub(/@.*/, "", $NF)
			if ($NF !~ /mgmnt|config|control|output|async|event/ && match($NF, /[0-9]+$/))
				print substr($NF, RSTART), $1 + 0 }' "$root/proc/interrupts"
	done | sort -n | cut -d' ' -f2
)
for ((i = 0; i < ${#irqs[@]}; i++)); do
	set_file "$root/proc/irq/${irqs[i]}/smp_affinity_list" "${reactors[i % ${#reactors[@]}]}" \
		"queue $i interrupts the core of reactor $((i % ${#reactors[@]}))"
done
test ${#irqs[@]} -gt 0 || echo "$interface: no interrupts of queues found; their affinity stays"
if test -z "$root" && pgrep -x irqbalance >/dev/null; then
	echo "irqbalance is running and will move interrupts back: systemctl disable --now irqbalance"
fi

if test "${queues:-${#rx[@]}}" -lt ${#reactors[@]}; then
	for queue in "${rx[@]}"; do
		set_mask "$queue/rps_cpus" "$(mask "${reactors[@]}")" \
			"fewer queues than reactors: spread packets over the reactors' cores in software (RPS)"
	done
else
	for queue in "${rx[@]}"; do
		set_mask "$queue/rps_cpus" 0 \
			"as many queues as reactors: the card spreads already, software would only cost a hop"
	done
fi
for ((i = 0; i < ${#tx[@]}; i++)); do
	set_mask "$(net queues)/tx-$i/xps_cpus" "$(mask "${reactors[i % ${#reactors[@]}]}")" \
		"reactor $((i % ${#reactors[@]})) sends by a queue of its own, without a lock (XPS)"
done

# ---- processors ---------------------------------------------------------------------------------

for cpu in "${reactors[@]}"; do
	set_file "$root/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor" performance \
		"a reactor that was parked must not wake up at the lowest frequency"
done

# ---- kernel settings ----------------------------------------------------------------------------

here=$(dirname "$0")
for settings in "$here/sysctl.d/60-broker.conf" /usr/lib/sysctl.d/60-broker.conf /usr/local/lib/sysctl.d/60-broker.conf; do
	test -e "$settings" || continue
	while read -r key value why; do
		raise_file "$root/proc/sys/${key//.//}" "$value" "$why"
	done < <(awk '/^# / { why = why substr($0, 3) " " } /^$/ { why = "" }
		/^-?[a-z]/ { sub(/^-/, "", $1); print $1, $3, why }' "$settings")
	break
done
if test -n "$busy_poll"; then
	for key in busy_poll busy_read; do
		set_file "$root/proc/sys/net/core/$key" 50 \
			"look for packets for 50 us instead of waiting for the interrupt: latency for CPU"
	done
fi

# ---- the end ------------------------------------------------------------------------------------

if test "$mode" = apply; then
	echo "$changes changes; tune.sh --undo puts back what was there ($state)"
elif test $changes = 0; then
	echo "nothing to change"
else
	echo "$changes changes; tune.sh --apply makes them, as root"
fi
