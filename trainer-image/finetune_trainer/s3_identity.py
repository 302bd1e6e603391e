"""As whom the store is spoken to: a Secret's keys, a service account's token, a role taken with either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from botocore import UNSIGNED
from botocore.credentials import (
    CredentialProvider,
    Credentials,
    DeferredRefreshableCredentials,
    ReadOnlyCredentials,
)
from botocore.exceptions import NoCredentialsError
from botocore.session import Session, get_session

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_api.storage import AssumedRole, Storage, WebIdentity
from finetune_trainer.errors import bad_input
from finetune_trainer.s3_errors import CREDENTIALS_PATH
from finetune_trainer.s3_retries import Patience

DEFAULT_REGION = "us-east-1"
# How long keys with a session token are said to hold. botocore asks for new ones on the first request when less than 15
# minutes are left, so that the Secret is read again once a minute; it insists on them from 10 minutes on.
_REREAD_SECONDS = 16 * 60
_SESSION_NAME = "finetune"
Fetched = dict[str, str]
# Makes a client of STS; see _sts.
Sts = Callable[..., Any]


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


def open_session(storage: Storage, handed: Handed, patience: Patience) -> Session:
    """A session that has the keys that `storage` names; without any, botocore's own chain finds the pod's identity.

    Reads files and asks no server: roles are taken, and their source is looked for, when a request is to be signed.
    Raises StageFailure (CredentialsInvalid) where the Secret lacks a key.
    """
    session = get_session()
    sts = partial(_sts, session, storage, handed, patience)
    first = found = _first_keys(storage, handed, sts)
    if storage.assume_role:
        # A session of its own: this one's chain would come back to the role, and wait for itself for good.
        find = get_session().get_credentials if first is None else lambda: first
        found = DeferredRefreshableCredentials(_role(storage.assume_role, find, sts), "assume-role")
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


def _first_keys(storage: Storage, handed: Handed, sts: Sts) -> Credentials | None:
    """The keys before any role is taken with them."""
    if handed.keys is not None:
        keys = read_keys(storage, handed.keys)
        if keys["token"] is None:
            return Credentials(**keys)
        folder = handed.keys
        return DeferredRefreshableCredentials(lambda: _reread(storage, folder), "secret")
    if storage.web_identity is not None and handed.token is not None:
        return DeferredRefreshableCredentials(_web_identity(storage.web_identity, handed.token, sts), "web-identity")
    return None


def read_keys(storage: Storage, folder: Path) -> dict[str, Any]:
    """access_key, secret_key and token of a mounted Secret. Raises StageFailure where one that must be is not."""
    # The kubelet renews all files of a volume at once, by another target of this link: the reads must see the same one.
    now = folder / "..data"
    folder = now.resolve() if now.is_dir() else folder
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


def _web_identity(identity: WebIdentity, token: Path, sts: Sts) -> Callable[[], Fetched]:
    """Asks for keys for the service account's token, which is read anew each time: the kubelet renews it."""
    named = {"RoleArn": identity.role_arn} if identity.role_arn else {}

    def fetch() -> Fetched:
        # MinIO goes by the token's claims where no role is named; AWS's own model would insist on one.
        client = sts(signature_version=UNSIGNED, parameter_validation=False)
        said = {"WebIdentityToken": token.read_text(encoding="utf-8").strip(), "RoleSessionName": _SESSION_NAME}
        return _fetched(client.assume_role_with_web_identity(**said, **named))

    return fetch


def _role(role: AssumedRole, find: Callable[[], Credentials | None], sts: Sts) -> Callable[[], Fetched]:
    """Takes the role with the keys that `find` finds."""
    external = {"ExternalId": role.external_id} if role.external_id else {}

    def fetch() -> Fetched:
        source = find()
        if source is None:
            raise NoCredentialsError
        client = sts(source.get_frozen_credentials())
        return _fetched(client.assume_role(RoleArn=role.role_arn, RoleSessionName=_SESSION_NAME, **external))

    return fetch


def _sts(
    session: Session,
    storage: Storage,
    handed: Handed,
    patience: Patience,
    keys: ReadOnlyCredentials | None = None,
    **settings: Any,
) -> Any:
    """A client of STS that is as patient as the store's, with `keys` and botocore's further `settings`."""
    given = (
        {
            "aws_access_key_id": keys.access_key,
            "aws_secret_access_key": keys.secret_key,
            "aws_session_token": keys.token,
        }
        if keys
        else {}
    )
    return session.create_client(
        "sts",
        endpoint_url=storage.sts_url,
        region_name=storage.region or DEFAULT_REGION,
        verify=handed.verify,
        config=patience.config(**settings),
        **given,
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
