"""The console at scale: see `__main__`."""
