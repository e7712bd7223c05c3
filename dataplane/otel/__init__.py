"""OpenTelemetry, for processes that are told where traces go. Nothing else imports its packages."""
