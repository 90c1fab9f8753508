"""What a request can put on the SDXL pipeline for one job; each feature is a context manager that undoes itself."""
