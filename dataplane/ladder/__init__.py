"""The degradation ladder: what users get, and what they read, when capacity runs short."""
