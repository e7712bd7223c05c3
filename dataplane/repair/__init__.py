"""The ladder that makes JSON of what a model wrote, one rung after the other; see docs/json-repair.md."""
