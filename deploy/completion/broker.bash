# shellcheck shell=bash
# bash completion for broker(1) and broker-load(1); needs nothing but bash. The options come from
# the programs' own --help, so that they cannot differ from it.

_broker_options() {
	"$1" --help 2>&1 | grep -oE -- '(^|[ ,|[])--[a-z][a-z-]*' | grep -oE -- '--[a-z-]+' | sort -u
}

_broker() {
	local program=$1 word=$2 before=$3
	COMPREPLY=()
	case $before in
	-c | --config)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	esac
	case $word in
	-*)
		mapfile -t COMPREPLY < <(compgen -W "$(_broker_options "$program")" -- "$word")
		;;
	*)
		compopt -o default 2>/dev/null
		;;
	esac
}

complete -F _broker broker broker-load
