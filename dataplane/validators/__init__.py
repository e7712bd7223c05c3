"""The layers of rules that an answer is looked at with before it reaches its caller; see docs/validators.md."""
