"""Kubernetes' three questions about a model server, answered by a process beside it: see docs/probes.md."""
