"""What is sent while a job runs: progress updates and streamed text."""
