"""Judges: each says of one answer whether it is good in one respect. Three kinds, asked in the same way."""
