"""Where the data plane keeps what must outlive one request: local disk and Redis, behind small interfaces."""
