"""Soak test: hundreds of jobs of all three handlers in long-lived workers, with random faults.

`make soak` runs 500 jobs. Handler, request and fault of each job are drawn from a seed (`soak.py`). The faults are those of
`tests/chaos/fault_injection` that can meet any job (`faults/`), and the same invariants are checked after each job. A fault that ends its
worker is injected into a dedicated one, so that the shared workers live from the first job to the last. At the end, storage and callbacks
must account for every job (`lost_jobs.py`), and no worker may have grown (`growth.py`).
"""
