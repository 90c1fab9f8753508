"""A real worker is killed by SIGKILL at a moment of a job's life: nothing that is half there is named, and the job can be done again."""
