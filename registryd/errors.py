"""The errors of the distribution specification, each with its code and HTTP status.

Source: OCI distribution specification, "Error Codes", and Distribution's
registry/api/errcode/register.go for the statuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class RegistryError(Exception):
    """What a registry answers instead of what it was asked for.

    ``detail`` is sent to the client as JSON; ``warning`` with it, where what it says is not known for certain.
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500
    message: ClassVar[str] = "unknown error"

    def __init__(self, message: str | None = None, *, detail: object = None, warning: str | None = None) -> None:
        super().__init__(message or self.message)
        self.detail = detail
        self.warning = warning

    def entries(self) -> Sequence[dict[str, object]]:
        """The members of the answer's ``errors`` list."""
        entry: dict[str, object] = {"code": self.code, "message": str(self)}
        if self.detail is not None:
            entry["detail"] = self.detail
        return [entry]


class Unsupported(RegistryError):
    code = "UNSUPPORTED"
    status = 405
    message = "the operation is unsupported"


class MalformedRequest(Unsupported):
    """What came is no request of HTTP/1.1: the specification has no code of its own for that."""

    status = 400
    message = "malformed HTTP request"


class Unauthorized(RegistryError):
    code = "UNAUTHORIZED"
    status = 401
    message = "authentication required"


class Denied(RegistryError):
    code = "DENIED"
    status = 403
    message = "requested access to the resource is denied"


class Unavailable(RegistryError):
    code = "UNAVAILABLE"
    status = 503
    message = "service unavailable"


class UpstreamUnavailable(Unavailable):
    """An upstream cannot answer now; ``str`` of it says why, for logs and warnings.

    ``retry_after`` are the seconds for which the upstream wants to be left alone, where it says so.
    """

    message = "the upstream is unavailable"

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageFull(Unavailable):
    """The storage has no room: what was being written is not kept, what was acknowledged is."""

    status = 507
    message = "no space left in the registry's storage"


class TooManyRequests(RegistryError):
    code = "TOOMANYREQUESTS"
    status = 429
    message = "too many requests"


class DigestInvalid(RegistryError):
    code = "DIGEST_INVALID"
    status = 400
    message = "provided digest did not match uploaded content"


class SizeInvalid(RegistryError):
    code = "SIZE_INVALID"
    status = 400
    message = "provided length did not match content length"


class UploadTooLarge(SizeInvalid):
    status = 413
    message = "blob is larger than this registry accepts"


class RangeInvalid(RegistryError):
    code = "RANGE_INVALID"
    status = 416
    message = "invalid content range"


class NameInvalid(RegistryError):
    code = "NAME_INVALID"
    status = 400
    message = "invalid repository name"


class NameUnknown(RegistryError):
    code = "NAME_UNKNOWN"
    status = 404
    message = "repository name not known to registry"


class TagInvalid(RegistryError):
    code = "TAG_INVALID"
    status = 400
    message = "manifest tag did not match URI"


class TooManyTags(TagInvalid):
    status = 414
    message = "more tags in one request than this registry accepts"


class ManifestUnknown(RegistryError):
    code = "MANIFEST_UNKNOWN"
    status = 404
    message = "manifest unknown"


class PreconditionFailed(RegistryError):
    """The specification has no code of its own for this. Source: RFC 9110, section 13."""

    code = "PRECONDITION_FAILED"
    status = 412
    message = "what is there is not what the request expects"


class ManifestInvalid(RegistryError):
    code = "MANIFEST_INVALID"
    status = 400
    message = "manifest invalid"


class ManifestTooLarge(ManifestInvalid):
    status = 413
    message = "manifest is larger than this registry accepts"


class ManifestBlobUnknown(RegistryError):
    """A manifest references what its repository does not hold: one entry for each missing digest."""

    code = "MANIFEST_BLOB_UNKNOWN"
    status = 400
    message = "manifest references a manifest or blob unknown to registry"

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__()
        self.missing = tuple(missing)

    def entries(self) -> Sequence[dict[str, object]]:
        return [{"code": self.code, "message": self.message, "detail": {"digest": digest}} for digest in self.missing]


class BlobUnknown(RegistryError):
    code = "BLOB_UNKNOWN"
    status = 404
    message = "blob unknown to registry"


class UploadUnknown(RegistryError):
    code = "BLOB_UPLOAD_UNKNOWN"
    status = 404
    message = "blob upload unknown to registry"


class UploadInvalid(RegistryError):
    code = "BLOB_UPLOAD_INVALID"
    status = 404
    message = "blob upload invalid"


class PaginationNumberInvalid(RegistryError):
    code = "PAGINATION_NUMBER_INVALID"
    status = 400
    message = "invalid number of results requested"
