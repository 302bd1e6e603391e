"""As whom the store is spoken to: a Secret's keys, a service account's token, a role taken with either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import CredentialProvider, Credentials, DeferredRefreshableCredentials
from botocore.exceptions import NoCredentialsError
from botocore.session import Session, get_session

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_api.storage import Storage
from finetune_trainer.errors import bad_input
from finetune_trainer.s3_errors import CREDENTIALS_PATH

DEFAULT_REGION = "us-east-1"
# A session token's file is read again from 10 minutes before this, botocore's own margin.
_REREAD_SECONDS = 15 * 60
_SESSION_NAME = "finetune"
Fetched = dict[str, str]


@dataclass(frozen=True)
class Handed:
    """What a pod was handed for the store, as files: a Secret's folder, a service account's token, certificates."""

    keys: Path | None = None
    token: Path | None = None
    certificates: Path | None = None

    @property
    def verify(self) -> str | None:
        """What botocore checks servers against; None: what its environment says."""
        return str(self.certificates) if self.certificates else None


def open_session(storage: Storage, handed: Handed) -> Session:
    """A session that has the keys that `storage` names; without any, botocore's own chain finds the pod's identity.

    Asks no server yet. Raises StageFailure (CredentialsInvalid) where the Secret lacks a key.
    """
    session = get_session()
    found = _first_keys(session, storage, handed)
    if storage.assume_role:
        source = found or session.get_credentials()
        found = DeferredRefreshableCredentials(_role(session, storage, handed, source), "assume-role")
    if found is not None:
        session.get_component("credential_provider").providers.insert(0, _Given(found))
    return session


class _Given(CredentialProvider):
    """The first link of botocore's chain: credentials that are there already."""

    METHOD = "finetune"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        """The credentials."""
        return self._credentials


def _first_keys(session: Session, storage: Storage, handed: Handed) -> Credentials | None:
    """The keys before any role is taken with them."""
    if handed.keys is not None:
        keys = read_keys(storage, handed.keys)
        if keys["token"] is None:
            return Credentials(**keys)
        folder = handed.keys
        return DeferredRefreshableCredentials(lambda: _reread(storage, folder), "secret")
    if storage.web_identity is not None and handed.token is not None:
        return DeferredRefreshableCredentials(_web_identity(session, storage, handed), "web-identity")
    return None


def read_keys(storage: Storage, folder: Path) -> dict[str, Any]:
    """access_key, secret_key and token of a mounted Secret. Raises StageFailure where one that must be is not."""
    required = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"}
    values: dict[str, Any] = {"token": None}
    for argument, name in {**required, "token": "AWS_SESSION_TOKEN"}.items():
        path = folder / name
        value = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if value:
            values[argument] = value
        elif argument in required:
            secret = storage.credentials_secret_ref.name if storage.credentials_secret_ref else None
            found = problem(CREDENTIALS_PATH, secret, f"the Secret has no {name}", "Add this key to the Secret.")
            raise bad_input(Reason.CREDENTIALS_INVALID, found)
    return values


def _reread(storage: Storage, folder: Path) -> Fetched:
    """Keys with a session token end; whoever renews the Secret is followed, as the kubelet renews the files."""
    until = datetime.now(UTC) + timedelta(seconds=_REREAD_SECONDS)
    return {**read_keys(storage, folder), "expiry_time": until.isoformat()}


def _web_identity(session: Session, storage: Storage, handed: Handed) -> Callable[[], Fetched]:
    """Asks for keys for the service account's token, which is read anew each time: the kubelet renews it."""
    assert storage.web_identity is not None
    assert handed.token is not None
    role, path = storage.web_identity.role_arn, handed.token

    def fetch() -> Fetched:
        # MinIO goes by the token's claims where no role is named; AWS's own model would insist on one.
        client = _sts(session, storage, handed, Config(signature_version=UNSIGNED, parameter_validation=False))
        named = {"RoleArn": role} if role else {}
        token = path.read_text(encoding="utf-8").strip()
        return _fetched(
            client.assume_role_with_web_identity(WebIdentityToken=token, RoleSessionName=_SESSION_NAME, **named)
        )

    return fetch


def _role(session: Session, storage: Storage, handed: Handed, source: Credentials | None) -> Callable[[], Fetched]:
    """Takes the role with the keys of `source`."""
    assert storage.assume_role is not None
    role = storage.assume_role
    external = {"ExternalId": role.external_id} if role.external_id else {}

    def fetch() -> Fetched:
        if source is None:
            # The session's own chain would come back to this role, and wait for itself for good.
            raise NoCredentialsError
        keys = source.get_frozen_credentials()
        given = {
            "aws_access_key_id": keys.access_key,
            "aws_secret_access_key": keys.secret_key,
            "aws_session_token": keys.token,
        }
        client = _sts(session, storage, handed, Config(), **given)
        return _fetched(client.assume_role(RoleArn=role.role_arn, RoleSessionName=_SESSION_NAME, **external))

    return fetch


def _sts(session: Session, storage: Storage, handed: Handed, config: Config, **keys: Any) -> Any:
    return session.create_client(
        "sts",
        endpoint_url=storage.sts_url,
        region_name=storage.region or DEFAULT_REGION,
        verify=handed.verify,
        config=config,
        **keys,
    )


def _fetched(answer: Any) -> Fetched:
    """What botocore's refreshable credentials want to be given."""
    found = answer["Credentials"]
    return {
        "access_key": found["AccessKeyId"],
        "secret_key": found["SecretAccessKey"],
        "token": found["SessionToken"],
        "expiry_time": found["Expiration"].isoformat(),
    }
