"""Sends a request, waits with a progress bar, and downloads the assets.

To a RunPod endpoint, a worker's request (`examples/requests/`), with `RUNPOD_API_KEY`, and for the files of images and clips also
`SUPABASE_URL` and `SUPABASE_SERVICE_ROLE_KEY`:

    python -m playground.submit examples/requests/chat_conversation.json --endpoint abc123

To a Supabase project (`supabase/`), a submission for `queue-job`, with `SUPABASE_URL`, `SUPABASE_PUBLISHABLE_KEY`, and the user's
`SUPABASE_EMAIL` and `SUPABASE_PASSWORD`:

    python -m playground.submit submission.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import httpx
from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a separate package

from playground.services import Asset, Endpoint, Project, Service, State

POLL_SECONDS = 2.0


def wait(service: Service, job_id: str, poll_seconds: float = POLL_SECONDS) -> State:
    """Polls a job until it has ended, and shows its progress."""
    with tqdm(total=100, bar_format="{desc} {bar} {n:.0f} % {elapsed}") as bar:
        while True:
            state = service.state(job_id)
            bar.set_description_str(f"{job_id} {state.status}")
            bar.n = 100 if state.ended else (state.percent or bar.n)
            bar.refresh()
            if state.ended:
                return state
            time.sleep(poll_seconds)


def save(asset: Asset, folder: Path) -> str:
    """Stores an asset in a folder and returns where it is."""
    if asset.content is None and asset.url is None:
        return f"{asset.name}: in Storage. Set SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY to download it."
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / asset.name
    if asset.content is not None:
        path.write_text(asset.content, "utf-8")
    else:
        response = httpx.get(str(asset.url), headers=dict(asset.headers), timeout=120)
        response.raise_for_status()
        path.write_bytes(response.content)
    return str(path)


def main() -> int:
    """Submits the request of the command line. Returns 1 if the job failed."""
    parser = argparse.ArgumentParser("playground.submit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("request", type=Path, help="a JSON file")
    parser.add_argument("--endpoint", help="the id of a RunPod endpoint; by default the request goes to the Supabase project")
    parser.add_argument("--output", type=Path, default=Path("out"), help="the folder for assets")
    arguments = parser.parse_args()
    service: Service = Endpoint(arguments.endpoint, os.environ) if arguments.endpoint else Project(os.environ)
    job_id = service.submit(json.loads(arguments.request.read_text("utf-8")))
    state = wait(service, job_id)
    for asset in state.assets:
        print(save(asset, arguments.output / job_id))
    if state.error is not None:
        print(f"{state.status}: {state.error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
