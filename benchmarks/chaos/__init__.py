"""`make chaos`: each component of a whole Ballast is killed and stopped under load; what came of it is one table."""
