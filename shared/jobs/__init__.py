"""The life of a job, the same for every handler.

`lifecycle` runs a job: it calls the handler's `recipe`, stores the outputs as `assets`, builds the `payload`, and leaves the form of the
response to a `presentation`. Below it, `execution` runs the work, `delivery` gets results to storage and receivers, and `streaming` sends
progress and text while a job runs.
"""
