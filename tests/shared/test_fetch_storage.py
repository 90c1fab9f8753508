"""Fetching references by storage path, from Supabase and from disk, and TLS verification."""

import ssl
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import stamina
import trustme
from PIL import Image
from pydantic import SecretStr

from shared.contract.references import Reference
from shared.errors import ReferenceImageError
from shared.fetch import Fetcher
from shared.settings import Settings
from tests.doubles.fake_storage import FakeStorage, StoredObject, fails_with
from tests.doubles.image_server import ImageServer, answers
from tests.shared.network.fake_resolver import FakeResolver

KEY = "canary-service-key"
TLS = ssl.create_default_context()


def image_bytes() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _no_backoff() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture
def server() -> Iterator[FakeStorage]:
    with FakeStorage(KEY) as server:
        server.objects["u/in/my picture.png"] = StoredObject(image_bytes(), "image/png", {})
        server.objects["other/secret.png"] = StoredObject(image_bytes(), "image/png", {})
        yield server


def fetch(server: FakeStorage, path: str, *, user_id: str | None = "u", **others: Any) -> Image.Image:
    settings = Settings(supabase_url=server.url, supabase_key=SecretStr(KEY), **others)
    return Fetcher(settings, verify=TLS).fetch(Reference.parse(path), field="config.image", user_id=user_id)


@pytest.mark.parametrize("path", ["u/in/my picture.png", "workspace-temp/u/in/my picture.png"])
def test_path_of_the_jobs_user_is_fetched_with_the_service_key(server: FakeStorage, path: str) -> None:
    assert fetch(server, path).size == (32, 24)
    assert server.requests == [("GET", "/storage/v1/object/authenticated/workspace-temp/u/in/my%20picture.png")]


HOSTILE = [
    "other/secret.png",
    "workspace-temp/other/secret.png",
    "workspace-temp",
    "u",
    "u/",
    "/u/in/my picture.png",
    "u//secret.png",
    "u/../other/secret.png",
    "u/./secret.png",
    "u/%2e%2e/other/secret.png",
    "u/..%2fother/secret.png",
    "u/\\..\\other/secret.png",
    "../workspace-temp/other/secret.png",
    "workspace-temp/u/../other/secret.png",
    "x/../../bucket/u/a.png",
    "u/a.png?x=1",
    "u/a.png#x",
    "u/a\n.png",
    "u/ä.png",
    "U/in/my picture.png",
    "",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_path_outside_the_users_folder_is_refused_before_any_request(server: FakeStorage, path: str) -> None:
    with pytest.raises(ReferenceImageError, match=r"^`config\.image` cannot be used: ") as caught:
        fetch(server, path)
    assert server.requests == []
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("buckets", "path", "read"),
    [
        (None, "user-library/u/a.png", True),
        (None, "reference_images/u/a.png", True),
        (None, "private-backups/u/a.png", False),
        (None, "Workspace-Temp/u/a.png", False),
        (("user-library",), "workspace-temp/u/a.png", False),
        (("user-library",), "u/a.png", False),
        (("private-backups",), "private-backups/u/a.png", True),
        ((), "workspace-temp/u/a.png", False),
    ],
)
def test_only_the_listed_buckets_are_read(server: FakeStorage, buckets: tuple[str, ...] | None, path: str, read: bool) -> None:
    settings: dict[str, Any] = {} if buckets is None else {"reference_buckets": buckets}
    with pytest.raises(ReferenceImageError, match="returned HTTP 404" if read else "its bucket is not in REFERENCE_BUCKETS"):
        fetch(server, path, **settings)
    assert len(server.requests) == read


@pytest.mark.parametrize("user_id", [None, "", "..", "other/x"])
def test_without_a_user_no_storage_path_is_allowed(server: FakeStorage, user_id: str | None) -> None:
    for path in (f"{user_id}/secret.png", "u/in/my picture.png", f"workspace-temp/{user_id}/secret.png"):
        with pytest.raises(ReferenceImageError):
            fetch(server, path, user_id=user_id)
    assert server.requests == []


def test_user_id_that_equals_a_bucket_name_does_not_open_the_bucket(server: FakeStorage) -> None:
    with pytest.raises(ReferenceImageError, match="returned HTTP 404"):
        fetch(server, "workspace-temp/other/secret.png", user_id="workspace-temp")
    assert server.requests == [("GET", "/storage/v1/object/authenticated/workspace-temp/workspace-temp/other/secret.png")]


def test_status_in_the_body_overrides_the_http_status(server: FakeStorage) -> None:
    with pytest.raises(ReferenceImageError, match="returned HTTP 404") as caught:
        fetch(server, "u/missing.png")
    assert not caught.value.retryable
    server.fail(fails_with(503), fails_with(544))
    assert fetch(server, "u/in/my picture.png").size == (32, 24)


def test_url_in_the_projects_storage_is_fetched_without_the_key(server: FakeStorage) -> None:
    with pytest.raises(ReferenceImageError, match="returned HTTP 403"):
        fetch(server, f"{server.url}/storage/v1/object/authenticated/workspace-temp/other/secret.png")


def test_storage_path_is_never_redirected(server: FakeStorage) -> None:
    def redirect(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{server.url}/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.fail(redirect)
    with pytest.raises(ReferenceImageError, match="redirects"):
        fetch(server, "u/in/my picture.png")
    assert len(server.requests) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "out/u/in").mkdir(parents=True)
    (tmp_path / "out/u/in/a.png").write_bytes(image_bytes())
    (tmp_path / "secret.png").write_bytes(image_bytes())
    (tmp_path / "out/u/link.png").symlink_to(tmp_path / "secret.png")
    return tmp_path / "out"


def from_disk(disk: Path, path: str, **others: Any) -> Image.Image:
    return Fetcher(Settings(output_dir=disk, **others), verify=TLS).fetch(Reference.parse(path), field="config.image", user_id="u")


@pytest.mark.parametrize("path", ["u/in/a.png", "workspace-temp/u/in/a.png"])
def test_without_supabase_paths_are_read_from_disk(disk: Path, path: str) -> None:
    assert from_disk(disk, path).size == (32, 24)


@pytest.mark.parametrize("path", [*HOSTILE, "u/link.png", "u/in", "u/missing.png", "elsewhere/u/in/a.png", "u/../../secret.png"])
def test_other_paths_are_not_read_from_disk(disk: Path, path: str) -> None:
    with pytest.raises(ReferenceImageError, match=r"^`config\.image` cannot be used: ") as caught:
        from_disk(disk, path)
    assert str(disk) not in caught.value.message


def test_file_above_the_size_limit_is_not_read(disk: Path) -> None:
    with pytest.raises(ReferenceImageError, match="more than 10 bytes"):
        from_disk(disk, "u/in/a.png", reference_max_bytes=10)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_host(authority: trustme.CA) -> Iterator[ImageServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("good.example").configure_cert(context)
    with ImageServer(tls=context) as host:
        host.serve("/a.png", answers(image_bytes()))
        yield host


def fetch_over_tls(host: ImageServer, name: str, verify: ssl.SSLContext | None) -> Image.Image:
    origin = f"https://{name}:{host.port}"
    resolver = FakeResolver(good=[["127.0.0.1"]], bad=[["127.0.0.1"]])
    return Fetcher(Settings(supabase_url=origin), resolve=resolver, verify=verify).fetch(
        Reference.parse(f"{origin}/a.png"), field="f", user_id=None
    )


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_request_and_certificate_use_the_hosts_name(tls_host: ImageServer, authority: trustme.CA) -> None:
    assert fetch_over_tls(tls_host, "good.example", trusting(authority)).size == (32, 24)
    assert tls_host.requests[0][1]["host"] == f"good.example:{tls_host.port}"


def test_certificate_for_another_name_is_refused(tls_host: ImageServer, authority: trustme.CA) -> None:
    with pytest.raises(ReferenceImageError, match="no valid certificate") as caught:
        fetch_over_tls(tls_host, "bad.example", trusting(authority))
    assert not caught.value.retryable
    assert tls_host.requests == []


def test_certificate_of_an_unknown_authority_is_refused(tls_host: ImageServer) -> None:
    with pytest.raises(ReferenceImageError, match="no valid certificate"):
        fetch_over_tls(tls_host, "good.example", None)
    assert tls_host.requests == []
