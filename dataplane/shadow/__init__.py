"""Shadow mode: a share of a route's traffic is asked of candidate lanes as well, and nobody waits for that."""
