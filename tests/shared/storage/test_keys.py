"""Object keys: the only place where paths are built from ids."""

import pytest

from shared.storage import object_key
from shared.storage.protocol import checked_key

HOSTILE = ["", ".", "..", "../x", "a/b", "a\\b", "%2e%2e", "a%2fb", "ä", "😀", "a b", "a\n", "a\x00", "x" * 129, "a.b", "~", "$HOME", "*"]


@pytest.mark.parametrize("name", ["0.png", "5.jpg", "0.mp4", "11.webp", "0.thumb.webp", "callback.json"])
def test_key_consists_of_user_job_and_name(name: str) -> None:
    assert object_key("a-User_1", "JOB-2", name) == f"a-User_1/JOB-2/{name}"


@pytest.mark.parametrize("part", HOSTILE)
def test_id_with_unsafe_characters_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="unsafe in a path"):
        object_key(part, "job", "0.png")
    with pytest.raises(ValueError, match="unsafe in a path"):
        object_key("user", part, "0.png")


@pytest.mark.parametrize(
    "name", [*(part for part in HOSTILE if part != "a.b"), "0", ".hidden", "0.png.exe.sh", "0..png", "0.PNG", "0.png/", "0.png\n"]
)
def test_file_name_with_unsafe_characters_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unsafe in a path"):
        object_key("user", "job", name)


def test_longest_ids_are_accepted() -> None:
    assert object_key("u" * 128, "j" * 128, "0.png").count("/") == 2


@pytest.mark.parametrize("key", ["u//0.png", "u/j/../0.png", "/u/j/0.png", "u/0.png", "u/j/k/0.png", "", "u/j/"])
def test_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        checked_key(key)
