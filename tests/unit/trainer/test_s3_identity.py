"""As whom the store is spoken to, by whom it is known, and how it encrypts: held to what goes over the wire."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import ExitCode, Reason
from finetune_api.storage import Storage
from finetune_trainer import s3_identity, s3_sending, s3_wire
from finetune_trainer.errors import StageFailure
from finetune_trainer.s3 import QUICK, Handed, Patience, S3Objects, connect
from finetune_trainer.s3_errors import Place

from .recording import TLS, Recorder, recording

URI = "s3://bucket/team"


def objects(storage: dict[str, Any], handed: Handed) -> S3Objects:
    found = Storage.model_validate({"uri": URI, **storage})
    return connect(found, handed, QUICK).objects(Place("spec.storage.uri", URI, Reason.BUCKET_NOT_FOUND))


def put(storage: dict[str, Any], handed: Handed) -> None:
    objects(storage, handed).write("x", b"{}")


@pytest.fixture
def server() -> Any:
    with recording() as found:
        yield found


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def secret(folder: Path, **more: str) -> Handed:
    folder.mkdir(exist_ok=True)
    for name, value in {"AWS_ACCESS_KEY_ID": "KEYID", "AWS_SECRET_ACCESS_KEY": "secret", **more}.items():
        (folder / name).write_text(f"{value}\n")
    return Handed(keys=folder)


def token(folder: Path) -> Handed:
    (folder / "token").write_text("the-service-accounts-token")
    return Handed(token=folder / "token")


def test_a_secrets_keys_sign(server: Recorder, tmp_path: Path) -> None:
    put({"endpoint": server.url}, secret(tmp_path / "s"))
    (asked,) = server.asked
    assert (asked.key_id, asked.path) == ("KEYID", "/bucket/team/x")
    assert "x-amz-security-token" not in asked.headers


def test_a_session_token_goes_with_its_keys_and_follows_the_secret(server: Recorder, tmp_path: Path) -> None:
    handed = secret(tmp_path / "s", AWS_SESSION_TOKEN="first")
    found = objects({"endpoint": server.url}, handed)
    found.write("x", b"{}")
    secret(tmp_path / "s", AWS_ACCESS_KEY_ID="NEWID", AWS_SESSION_TOKEN="second")
    credentials = found._wire.client._request_signer._credentials
    # As when its time is up; botocore asks itself on every request.
    credentials._expiry_time = credentials._time_fetcher()
    found.write("x", b"{}")
    assert [(item.key_id, item.headers["x-amz-security-token"]) for item in server.asked] == [
        ("KEYID", "first"),
        ("NEWID", "second"),
    ]


@pytest.mark.parametrize(("region", "named"), [(None, "us-east-1"), ("eu-central-1", "eu-central-1")])
def test_the_region_is_signed_for(server: Recorder, tmp_path: Path, region: str | None, named: str) -> None:
    put({"endpoint": server.url, "region": region}, secret(tmp_path / "s"))
    assert f"/{named}/s3/" in server.asked[0].headers["authorization"]


def test_the_bucket_in_the_hosts_name(server: Recorder, tmp_path: Path) -> None:
    url = server.url.replace("127.0.0.1", "localhost")
    connection = connect(
        Storage.model_validate({"uri": URI, "endpoint": url, "forcePathStyle": False}), secret(tmp_path / "s"), QUICK
    )
    asked: list[str] = []

    def stop(request: Any, **_: Any) -> Any:
        asked.append(request.url)
        raise InterruptedError

    connection.client.meta.events.register("before-send.s3", stop)
    with pytest.raises(InterruptedError):
        connection.objects(Place("p", URI, Reason.BUCKET_NOT_FOUND)).write("x", b"")
    assert asked[0].startswith(url.replace("localhost", "bucket.localhost"))


@pytest.mark.parametrize("role", ["arn:aws:iam::123456789012:role/store", None])
def test_web_identity(server: Recorder, tmp_path: Path, role: str | None) -> None:
    identity = {"webIdentity": {"roleArn": role} if role else {}}
    put({"endpoint": server.url, **identity}, token(tmp_path))
    (asked,) = server.of("AssumeRoleWithWebIdentity")
    assert (asked.form["WebIdentityToken"], asked.form.get("RoleArn")) == ("the-service-accounts-token", role)
    assert asked.key_id == "", "the token alone speaks for the pod"
    (sent,) = server.puts
    assert (sent.key_id, sent.headers["x-amz-security-token"]) == ("WEB", "token-of-WEB")


def test_a_role_is_taken_with_the_secrets_keys(server: Recorder, tmp_path: Path) -> None:
    role = {"roleArn": "arn:aws:iam::123456789012:role/other", "externalId": "team-a"}
    with recording() as sts:
        put({"endpoint": server.url, "assumeRole": role, "stsEndpoint": sts.url}, secret(tmp_path / "s"))
        (asked,) = sts.of("AssumeRole")
    assert (asked.key_id, asked.form["RoleArn"], asked.form["ExternalId"]) == ("KEYID", role["roleArn"], "team-a")
    assert [item.key_id for item in server.asked] == ["ROLE"]


def test_a_role_is_taken_with_a_web_identity(server: Recorder, tmp_path: Path) -> None:
    storage = {"webIdentity": {}, "assumeRole": {"roleArn": "arn:aws:iam::123456789012:role/other"}}
    put({"endpoint": server.url, **storage}, token(tmp_path))
    assert server.of("AssumeRole")[0].key_id == "WEB"
    assert server.puts[0].key_id == "ROLE"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("storage", "by"),
    [({"webIdentity": {}}, token), ({"assumeRole": {"roleArn": "arn:aws:iam::123456789012:role/other"}}, None)],
)
def test_sts_is_waited_for_no_longer_than_the_store(
    server: Recorder, tmp_path: Path, storage: dict[str, Any], by: Callable[[Path], Handed] | None
) -> None:
    """botocore's own timeouts are a minute for each of five attempts."""
    handed = by(tmp_path) if by else secret(tmp_path / "s")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sts = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = Storage.model_validate({"uri": URI, "endpoint": server.url, "stsEndpoint": sts, **storage})
        hasty = Patience(attempts=2, connect_seconds=1, read_seconds=0.3, seconds=0)
        started = time.monotonic()
        with pytest.raises(StageFailure) as caught:
            connect(found, handed, hasty).objects(Place("p", URI, Reason.BUCKET_NOT_FOUND)).write("x", b"{}")
    assert time.monotonic() - started < 10
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert (caught.value.problems[0].path, caught.value.problems[0].value) == ("spec.storage.stsEndpoint", sts)


def test_nobody_is_asked_for_keys_before_they_are_needed(
    server: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source of a role's keys is the pod's own chain here, whose last links ask the node's metadata service."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/keys")
    found = objects(
        {"endpoint": server.url, "assumeRole": {"roleArn": "arn:aws:iam::123456789012:role/other"}}, Handed()
    )
    assert server.asked == []
    with pytest.raises(StageFailure):
        found.write("x", b"{}")
    assert [item.path for item in server.asked][:1] == ["/keys"]


def test_keys_with_a_session_token_are_read_again_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = s3_identity.read_keys
    monkeypatch.setattr(s3_identity, "read_keys", lambda *said: reads.append(said[1]) or read(*said))
    handed = secret(tmp_path / "s", AWS_SESSION_TOKEN="first")
    session = s3_identity.open_session(Storage(uri=URI), handed, QUICK)
    credentials = session.get_credentials()
    now = credentials._time_fetcher()
    for seconds in (0, 30, 50, 70, 80, 125, 190):
        credentials._time_fetcher = lambda seconds=seconds: now + timedelta(seconds=seconds)
        # The keys that are read are said to hold from now on, by this machine's clock.
        monkeypatch.setattr(s3_identity, "_REREAD_SECONDS", 16 * 60 + seconds)
        credentials.get_frozen_credentials()
    # At the start for `open_session` and for the first request, then at 70, and after more than a minute each.
    assert len(reads) == 1 + 1 + 2


def test_a_secret_that_is_renewed_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet changes a link's target between two reads: the key of one pair goes with no other's secret."""
    for name in ("one", "two"):
        secret(tmp_path / name, AWS_ACCESS_KEY_ID=f"ID-{name}", AWS_SECRET_ACCESS_KEY=f"secret-{name}")
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "..data").symlink_to("../one")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (mount / name).symlink_to(f"..data/{name}")
    read = Path.read_text

    def renewed(path: Path, **named: Any) -> str:
        found = read(path, **named)
        (mount / "..data").unlink()
        (mount / "..data").symlink_to("../two")
        return found

    monkeypatch.setattr(Path, "read_text", renewed)
    keys = s3_identity.read_keys(Storage(uri=URI), mount)
    assert (keys["access_key"], keys["secret_key"]) == ("ID-one", "secret-one")


@pytest.mark.timeout(20)
def test_a_role_without_any_keys_to_take_it_with(server: Recorder) -> None:
    """The chain that has the role's own keys first must not be asked for those: it would wait for itself."""
    with pytest.raises(StageFailure) as caught:
        put({"endpoint": server.url, "assumeRole": {"roleArn": "arn:aws:iam::123456789012:role/other"}}, Handed())
    assert caught.value.reason is Reason.CREDENTIALS_INVALID
    assert "there are no credentials" in caught.value.problems[0].message


@pytest.mark.parametrize(
    ("storage", "path"),
    [
        ({"webIdentity": {}}, "spec.storage.webIdentity"),
        ({"assumeRole": {"roleArn": "arn:aws:iam::123456789012:role/other"}}, "spec.storage.assumeRole"),
    ],
)
def test_a_role_that_is_not_given_is_the_specs_fault(
    server: Recorder, tmp_path: Path, storage: dict[str, Any], path: str
) -> None:
    server.refuses = True
    handed = token(tmp_path) if "webIdentity" in storage else secret(tmp_path / "s")
    with pytest.raises(StageFailure) as caught:
        put({"endpoint": server.url, **storage}, handed)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.CREDENTIALS_INVALID, ExitCode.BAD_INPUT)
    assert caught.value.problems[0].path == path
    assert "not you" in caught.value.problems[0].message


def test_certificates_of_a_server_of_our_own(tmp_path: Path) -> None:
    keys = secret(tmp_path / "s").keys
    with recording(tls=True) as server:
        put({"endpoint": server.url}, Handed(keys=keys, certificates=TLS / "cert.pem"))
        assert len(server.asked) == 1
        with pytest.raises(StageFailure) as caught:
            put({"endpoint": server.url, "caBundleRef": {"name": "our-ca"}}, Handed(keys=keys))
    assert caught.value.problems[0].path == "spec.storage.caBundleRef"
    assert "our-ca" in str(caught.value)


@pytest.mark.parametrize(
    ("encryption", "headers"),
    [
        (None, {}),
        ({"type": "AES256"}, {"": "AES256"}),
        ({}, {"": "aws:kms"}),
        (
            {"type": "aws:kms:dsse", "kmsKeyId": "alias/team", "bucketKey": True},
            {"": "aws:kms:dsse", "-aws-kms-key-id": "alias/team", "-bucket-key-enabled": "true"},
        ),
    ],
)
def test_every_object_is_put_with_its_encryption(
    server: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encryption: dict[str, Any] | None,
    headers: dict[str, str],
) -> None:
    monkeypatch.setattr(s3_sending, "PART", 1 << 20)
    monkeypatch.setattr(s3_wire, "PART", 1 << 20)
    for name, size in (("small", 10), ("large", (2 << 20) + 1)):
        (tmp_path / name).write_bytes(b"x" * size)
    found = objects({"endpoint": server.url, "encryption": encryption}, secret(tmp_path / "s"))
    found.write("document", b"{}", only_new=True)
    found.upload({name: tmp_path / name for name in ("small", "large")})
    begin = "x-amz-server-side-encryption"
    said = {
        (item.path, *item.query): {
            name.removeprefix(begin): value for name, value in item.headers.items() if name.startswith(begin)
        }
        for item in server.puts
        if "partNumber" not in item.query and "uploadId" not in item.query
    }
    assert said == {
        ("/bucket/team/document",): headers,
        ("/bucket/team/small",): headers,
        ("/bucket/team/large", "uploads"): headers,
    }
    assert len([item for item in server.puts if "partNumber" in item.query]) == 3
