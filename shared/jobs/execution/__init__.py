"""The execution of a job's work: threads, the GPU thread, cancellation, deadlines, duplicate deliveries, shutdown."""
