"""One module for each subcommand: `configure(parser)` declares its arguments, `execute(args)` does its work."""
