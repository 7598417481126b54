#compdef broker
# zsh completion for broker(1).
_arguments -s \
	'(-c --config)'{-c,--config}'[the configuration]:file:_files' \
	'(--topology)--check[check the configuration and show what would run]' \
	'(--check)--topology[show cores, and which ones reactors would get]' \
	'(- *)--version[print the version]' \
	'(- *)'{-h,--help}'[print a summary]'
