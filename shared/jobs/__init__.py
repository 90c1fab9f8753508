"""The life of a job, the same for every handler."""
