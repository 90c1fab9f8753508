"""Fault injection: forty-four faults are injected into real workers, and invariants are checked after each of them.

A worker is a process that runs a real handler on small models in the real SDK's loop (`worker.py`). `harness.py` surrounds it with a fake
RunPod API, fake storage, a callback receiver and an image server, all on loopback. Each case in `cases/` is a function that injects its
fault, runs jobs through `Harness.run_job`, and asserts what is specific to it. The invariants common to all cases are checked in
`invariants.py`, and then the same worker runs a clean job. `test_faults.py` runs the cases in order and then in a random order with a fixed
seed. `make faults` prints the table and writes `docs/reliability.md`.

To add a case, add a function to the module of its group:

    @fault("F41", "What is injected, as a noun phrase", "what is expected")
    def _(harness: Harness) -> None:
        harness.storage.outage = fails_with(503)     # removed by `Harness.clear_faults` after the case
        output = harness.run_job(sdxl("F41"))        # the payload that RunPod receives
        assert output["metadata"]["error_code"] == "UPLOAD_ERROR"

A job that must fail before any work is run with `rejected=True`. A case with variants loops over them, each with a job id that begins with
the number of the case. A case that terminates its worker starts one of its own: `with harness.dedicated_worker() as worker: …`;
`dedicated_worker("stub")` starts soonest, for faults that need no model.
"""
