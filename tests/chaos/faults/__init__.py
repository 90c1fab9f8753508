"""Forty faults, each injected for real into a real worker, and what must hold after each of them.

A worker is a process of its own in the real SDK's loop, with a real handler on small models (`worker.py`). Around it stand a gateway, a
storage, a receiver of callbacks and a host of references, all on loopback (`world.py`). A case (`cases_*.py`) is a function that injects
its fault, does jobs through `World.do`, and asserts what is particular to it. What must hold after every case, S1 … S8, is checked for
all of them in one place (`invariants.py`), and then a good job runs in the same worker. `test_faults.py` runs them one after the other
and, once more, in an order that is drawn from a fixed seed; `make faults` prints the table and writes it into `docs/reliability.md`.

To add a case, write a function into the module of its group:

    @fault("F41", "What is injected, as a sentence begins", "what holds")
    def _(world: World) -> None:
        world.storage.outage = fails_with(503)       # injected; `World.calm` takes it off again after the case
        output = world.do(sdxl("F41"))               # the job's payload, as RunPod got it
        assert output["metadata"]["error_code"] == "UPLOAD_ERROR"

A job that is to fail before any work says so: `world.do(job, refused=True)`. A case with variants loops over them, each with a job id of
its own that begins with the case's number. A case that ends its worker asks for one of its own: `with world.own_worker() as worker: …`;
`own_worker("paint")` starts soonest, for faults that need no model.
"""
