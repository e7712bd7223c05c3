"""Kinds of work that letters tell of and that are told apart here. The others are whatever handlers call theirs."""

from typing import Final

from dataplane.stores.deadletters_sql import JOB as JOB

MESSAGE: Final = "message"  # of a broker, that nobody could read
