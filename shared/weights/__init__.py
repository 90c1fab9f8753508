"""Finding, downloading and verifying weights, as files."""
