#compdef broker broker-load
# zsh completion for broker(1) and broker-load(1); the latter says its options itself.
if [[ $service == broker-load ]]; then
	_gnu_generic
	return
fi
_arguments -s \
	'(-c --config)'{-c,--config}'[the configuration]:file:_files' \
	'(--topology)--check[check the configuration and show what would run]' \
	'(- *)--hash-password[read a password, print its hash]' \
	'(- *)--make-token[print a new token and its hash]' \
	'(--check)--topology[show cores, and which ones reactors would get]' \
	'(- *)--version[print the version]' \
	'(- *)'{-h,--help}'[print a summary]'
