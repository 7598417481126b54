#compdef broker broker-load
# zsh completion for broker(1) and broker-load(1); the latter says its options itself.
if [[ $service == broker-load ]]; then
	_gnu_generic
	return
fi
_arguments -s \
	'(-c --config)'{-c,--config}'[the configuration]:file:_files' \
	'(--topology)--check[check the configuration and show what would run]' \
	'(--check)--topology[show cores, and which ones reactors would get]' \
	'(- *)--version[print the version]' \
	'(- *)'{-h,--help}'[print a summary]'
