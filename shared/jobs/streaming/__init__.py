"""Output that leaves a job while it runs: progress updates, streamed text, and the queue between producer and consumer."""
