"""One machine, one command: starts Ballast's databases and processes, watches them, and leaves nothing behind."""
