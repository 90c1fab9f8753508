"""Weights are tensors: nothing that came with them is run, unpickled, or followed to somewhere else."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_NETWORKS = "tests/untrusted/test_networks.py"
_SHELF = "tests/untrusted/test_shelf.py"
_SOURCES = "tests/untrusted/test_sources.py"
_READERS = f"{_SOURCES}::test_every_reader_of_weights_takes_safetensors_only_and_asks_no_hub"

POINT = Point(
    9,
    "Untrusted files",
    (
        Protection(
            "An index of shards names `.safetensors` files beside it, and no pickle.",
            "shared/weights/folders.py",
            "if not all(_SHARD.fullmatch(shard) for shard in _shards(path))",
            "if not _shards(path)",
            (f"{_NETWORKS}::test_an_index_may_name_no_shard_that_is_a_pickle", f"{_NETWORKS}::test_an_index_may_name_no_shard_elsewhere"),
        ),
        Protection(
            "An adapter in a network's folder is not loaded with it.",
            "shared/weights/folders.py",
            'if (folder / "adapter_config.json").exists():',
            "if False:",
            (f"{_NETWORKS}::test_an_adapter_in_a_folder_is_refused",),
        ),
        Protection(
            "A configuration does not say which file has the weights.",
            "shared/weights/folders.py",
            'if "transformers_weights" in _read(folder / "config.json"):',
            "if False:",
            (f"{_NETWORKS}::test_a_configuration_may_not_say_which_file_has_the_weights",),
        ),
        Protection(
            "Networks are read from `.safetensors` alone.",
            "shared/models/load.py",
            "            use_safetensors=True,\n",
            "",
            (f"{_NETWORKS}::test_a_network_that_is_only_there_as_a_pickle_is_refused", _READERS),
        ),
        Protection(
            "A tokenizer brings no code.",
            "shared/models/load.py",
            "local_files_only=True, trust_remote_code=False, **options)",
            "local_files_only=True, trust_remote_code=True, **options)",
            (f"{_NETWORKS}::test_no_configuration_of_a_tokenizer_imports_code", f"{_SOURCES}::test_nothing_is_trusted_to_bring_code"),
        ),
        Protection(
            "A language model brings no code.",
            "handlers/chat/engines/transformers/load.py",
            "trust_remote_code=False",
            "trust_remote_code=True",
            (f"{_NETWORKS}::test_no_configuration_of_a_language_model_imports_code", f"{_SOURCES}::test_nothing_is_trusted_to_bring_code"),
        ),
        Protection(
            "A scheduler is one of the library's.",
            "shared/models/diffusers_folder.py",
            "    if not known:\n",
            "    if kind is None:\n",
            (f"{_NETWORKS}::test_a_scheduler_is_one_of_the_librarys_or_refused",),
        ),
        Protection(
            "Things on the shelf that are files are `.safetensors`.",
            "shared/weights/addons.py",
            "return board.files and path.suffix == _SUFFIX",
            "return board.files",
            (f"{_SHELF}::test_other_formats_are_not_on_the_shelf",),
        ),
        Protection(
            "A link out of its folder is not on the shelf, nor is a folder with one in it.",
            "shared/weights/addons.py",
            "            and _is_within(path, home)\n",
            "",
            (
                f"{_SHELF}::test_a_file_that_is_a_link_out_of_its_folder_is_not_there",
                f"{_SHELF}::test_a_folder_with_a_link_out_of_its_folder_in_it_is_not_there",
            ),
        ),
        Protection(
            "A request's name is compared with what there is, and never made into a path.",
            "shared/weights/addons.py",
            "        if path is None:\n",
            '        if (made := self._folder / BOARDS[kind].folder / f"{name}.safetensors").exists():\n            return made\n'
            "        if path is None:\n",
            (f"{_SHELF}::test_no_name_leads_out_of_the_folder",),
        ),
        Protection(
            "A request names no path and no URL.",
            "shared/contract/fields.py",
            'Field(pattern=r"^[A-Za-z0-9_](\\.?[A-Za-z0-9_ +-])*\\.?$", ',
            "Field(",
            (f"{_SHELF}::test_no_name_leads_out_of_the_folder",),
        ),
    ),
)
