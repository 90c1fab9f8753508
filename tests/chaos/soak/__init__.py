"""Many jobs of all three handlers in long-lived workers, with faults drawn by chance.

`make soak` runs 500. Each job is drawn from a seed: whose it is, what it asks for, and whether it meets a fault. The faults are those of
`tests/chaos/faults` that can meet any job (`draws.py`); what must hold after each job is S1 … S8, checked by the same code. A fault that ends its
worker meets a worker of its own, started for it as RunPod starts one, so that the others live from the first job to the last and what they
gather can be seen (`soak.py`). In the end storage, the receiver and RunPod are compared: what a payload names must be stored, and every
job must have come to an end that its caller was told (`audit.py`). `slopes.py` says whether memory and open files grow with the jobs.
"""
