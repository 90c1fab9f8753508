"""Makes the pictures of the handlers' pages: `python -m playground.pictures MODELS [NAME …]`.

They are written to `docs/images/sdxl/` and `docs/images/wan/`. Names select some of them.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path

from playground.pictures.render import load_recipe, make, suffix
from playground.pictures.table import PICTURES, Picture

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/images"
MAX_BYTES = 80_000


def path_of(picture: Picture) -> Path:
    """Returns the file of a picture."""
    return FOLDER / picture.handler / f"{picture.name}.{suffix(picture)}"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m playground.pictures", description=__doc__)
    parser.add_argument("models", type=Path, help="the folder of `make models`")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    options = parser.parse_args(arguments)
    recipe = cache(partial(load_recipe, models=options.models))
    for picture in PICTURES:
        if not options.names or picture.name in options.names:
            content = make(picture, recipe(picture.handler))
            path_of(picture).parent.mkdir(parents=True, exist_ok=True)
            path_of(picture).write_bytes(content)
            print(f"{path_of(picture).relative_to(ROOT)}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
