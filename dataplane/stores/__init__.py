"""Where the data plane keeps what must outlive one request, on local disk, in Redis or PostgreSQL: small interfaces."""
