"""One folder per endpoint, with the same file names in each."""
