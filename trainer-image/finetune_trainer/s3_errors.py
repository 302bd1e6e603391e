"""What S3 says when it refuses or does not answer → the spec's field, what is wrong, and what to do.

An error's note, if any, is the key of the object that it is about (see `s3_wire.about`).
"""

from __future__ import annotations

from dataclasses import dataclass

from botocore import exceptions as boto

from finetune_api.problems import Problem, problem
from finetune_api.stage import ExitCode, Reason
from finetune_api.storage import Storage
from finetune_trainer.errors import StageFailure, bad_input

CREDENTIALS_PATH = "spec.storage.credentialsSecretRef"

_CREDENTIALS_CODES = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "InvalidSecurity",
    "TokenRefreshRequired",
}
_REGION_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
_REDIRECTS = {301, 302, 303, 307, 308}
_DENIED_CODES = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403"}
_THROTTLING_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_THROTTLING_CODES |= {"ServiceUnavailable", "InternalError", "RequestThrottled", "BandwidthLimitExceeded"}
# Somebody else writes the same object just now; AWS asks for another try.
_THROTTLING_CODES |= {"ConditionalRequestConflict", "OperationAborted"}
# What proxies say for the store: too slow, too early, too many.
_THROTTLING_STATUSES = {408, 425, 429}
# AWS has no end; MinIO's, Ceph's and providers' stores have.
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
# What arrived is not what was sent: the way there is to blame, not the request.
_GARBLED_CODES = {"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout", "MalformedXML"}
# An upload whose parts the server has forgotten, or was told wrongly of: the next attempt begins a new one.
_LOST_CODES = {"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"}
_BUSY_CODES = _THROTTLING_CODES | _GARBLED_CODES
_REACH = "Check the URL, and that pods of this namespace may reach it."
_IDENTITY = {"AssumeRoleWithWebIdentity": "spec.storage.webIdentity", "AssumeRole": "spec.storage.assumeRole"}


@dataclass(frozen=True)
class Place:
    """The field of the spec that names a place in the store, and what it means that its bucket is not there."""

    path: str
    uri: str
    missing: Reason

    @property
    def bucket(self) -> str:
        """The bucket that `uri` names."""
        return self.uri.removeprefix("s3://").partition("/")[0]


def failure_of(error: Exception, place: Place, storage: Storage) -> StageFailure:
    """The failure that `error`, raised by boto3 about `place`, amounts to."""
    if isinstance(error, boto.ClientError):
        return _busy(error, storage) or _redirected(error, place, storage) or _refused(error, place, storage)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return bad_input(Reason.CREDENTIALS_INVALID, _credentials(storage, "there are no credentials for the store"))
    if isinstance(error, boto.SSLError):
        remedy = "Name the certificates that it is checked against (caBundleRef), or mend the URL."
        name = storage.ca_bundle_ref.name if storage.ca_bundle_ref else None
        found = problem("spec.storage.caBundleRef", name, f"the store's certificate is not trusted: {error}", remedy)
        return StageFailure(Reason.STORE_UNAVAILABLE, str(found), exit_code=ExitCode.INFRASTRUCTURE, problems=[found])
    return unavailable(storage, f"the store cannot be reached: {error}{_at(error)}")


def unavailable(storage: Storage, message: str, remedy: str = _REACH) -> StageFailure:
    """The store does not answer, or not as it should, which may pass by itself."""
    path, url = "spec.storage.endpoint", storage.endpoint or "AWS"
    if storage.sts_endpoint and storage.sts_endpoint in message:
        path, url = "spec.storage.stsEndpoint", storage.sts_endpoint
    found = problem(path, url, message, remedy)
    return StageFailure(Reason.STORE_UNAVAILABLE, str(found), exit_code=ExitCode.INFRASTRUCTURE, problems=[found])


def unlike_sent(place: Place, key: str, sent: int, shown: int | None) -> StageFailure:
    """The store took an object, and shows another size of it than was sent, or none."""
    message = f"{key}: {sent} bytes were sent, the store shows {shown if shown is not None else 'no such object'}"
    found = problem(place.path, place.uri, message, "Check the store.")
    return StageFailure(Reason.STORE_UNAVAILABLE, str(found), exit_code=ExitCode.INFRASTRUCTURE, problems=[found])


def error_code(error: boto.ClientError) -> str:
    """S3's word for the error; the HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_busy(error: boto.ClientError) -> bool:
    """Whether the store, or a proxy before it, is too busy or broken just now, or got something else than was sent."""
    code, status = error_code(error), http_status(error)
    # What a server does not know (501) it will not know next time either.
    return (status >= 500 and status != 501) or status in _THROTTLING_STATUSES or code in _BUSY_CODES


def http_status(error: boto.ClientError) -> int:
    """The HTTP status of the answer; 0 where it is not known."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _at(error: Exception) -> str:
    """Which object the error is about, where it was noted."""
    notes = getattr(error, "__notes__", [])
    return f", at {notes[0]}" if notes else ""


def _busy(error: boto.ClientError, storage: Storage) -> StageFailure | None:
    """The failure for what may pass by itself, after it was tried for long enough; None for everything else."""
    code, remedy = error_code(error), _REACH
    if code in _FULL_CODES:
        message, remedy = f"the store is full ({code})", "Make room (`finetune gc`), or raise the quota."
    elif code in _LOST_CODES:
        message = f"the store lost an upload ({code})"
    elif code in _GARBLED_CODES:
        message = f"what arrives there is not what was sent ({code}), again and again"
    elif code == "RequestTimeTooSkewed":
        message, remedy = "the node's clock and the store's are too far apart", "Set the clock of the node (NTP)."
    elif is_busy(error) or http_status(error) >= 500:
        message = f"the store answered {code or http_status(error)} again and again"
    else:
        return None
    return unavailable(storage, f"{message}{_at(error)}", remedy)


def _redirected(error: boto.ClientError, place: Place, storage: Storage) -> StageFailure | None:
    """The failure for a bucket of another region, or a server with another address; None for everything else."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    code, region = error_code(error), headers.get("x-amz-bucket-region")
    target = headers.get("location") or error.response.get("Error", {}).get("Endpoint")
    if code not in _REGION_CODES and http_status(error) not in _REDIRECTS:
        return None
    if storage.endpoint and not region and code not in _REGION_CODES:
        # Not followed: a request is signed for one host.
        message = f"it sends elsewhere ({http_status(error)}), to {target or 'nowhere'}"
        found = problem("spec.storage.endpoint", storage.endpoint, message, "Give the URL of the S3 server itself.")
        return bad_input(place.missing, found)
    message = f"the bucket {place.bucket} is in another region ({code})"
    remedy = f"Name the bucket's region{f', {region}' if region else ''}."
    return bad_input(place.missing, problem("spec.storage.region", storage.region or "us-east-1", message, remedy))


def _refused(error: boto.ClientError, place: Place, storage: Storage) -> StageFailure:
    code, status = error_code(error), http_status(error)
    if error.operation_name in _IDENTITY:
        return bad_input(Reason.CREDENTIALS_INVALID, _no_role(storage, error))
    if code == "NoSuchBucket" or status == 404:
        remedy = "Create the bucket, or name one that is there."
        return bad_input(place.missing, problem(place.path, place.uri, f"no bucket {place.bucket}", remedy))
    if code in _CREDENTIALS_CODES:
        return bad_input(Reason.CREDENTIALS_INVALID, _credentials(storage, f"the store refuses the key ({code})"))
    said = f"{code}: {error.response.get('Error', {}).get('Message', '')}" if code not in _DENIED_CODES else code
    message = f"the store does not allow {error.operation_name} here ({said}){_at(error)}"
    remedy = "Give the key of credentialsSecretRef the right to list, read and write there."
    return bad_input(Reason.ACCESS_DENIED, problem(place.path, place.uri, message, remedy))


def _no_role(storage: Storage, error: boto.ClientError) -> Problem:
    """A role that was not given."""
    path = _IDENTITY[error.operation_name]
    asked = storage.web_identity if error.operation_name == "AssumeRoleWithWebIdentity" else storage.assume_role
    said = f"{error_code(error)}: {error.response.get('Error', {}).get('Message', '')}"
    remedy = "Check the role's trust policy, the service account of the system, and audience or externalId."
    return problem(path, asked.role_arn if asked else None, f"the role is not given ({said})", remedy)


def _credentials(storage: Storage, message: str) -> Problem:
    name = storage.credentials_secret_ref.name if storage.credentials_secret_ref else None
    remedy = "Put a valid AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the Secret that this field names."
    return problem(CREDENTIALS_PATH, name, message, remedy)
