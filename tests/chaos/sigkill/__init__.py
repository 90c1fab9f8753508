"""Crash tests: SIGKILL at a chosen point of a job. No payload may name an incomplete file, and the redelivered job must complete."""
