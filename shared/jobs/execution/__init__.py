"""How a job's work runs: threads, the GPU thread, cancellation, deadlines, deduplication."""
