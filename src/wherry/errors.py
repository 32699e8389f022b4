"""Every error of both sides: what the server raises is what the client catches.

    WherryError                    id, message, retryable, hint
      RequestError                 the caller can do something
        BadRequest (TagRefused) · Unauthorized · Forbidden · NotFound · MethodNotAllowed · Conflict
        BodyTooLarge · UrlTooLong · HeadersTooLarge · RequestTimeout (retryable)
        RangeNotSatisfiable · Unprocessable (MutuallyExclusive) · RateLimited · NotServed
        Unavailable (retryable) · ServerFault · InsufficientStorage
      StorageError                 the bytes are wrong or out of reach
        BlockMissing · BlockCorrupt · ManifestMissing · ManifestCorrupt · KeyMissing · StoreFull · StoreRefused
        StoreUnavailable (retryable)
      FormatError                  the file is not the disk image it claims to be
        ImageTooLarge
      SourceError                  the URL of an import gives no image
        SourceRefused · SourceTooSlow · ChecksumWrong · UploadLost
        SourceUnavailable (retryable): SourceInterrupted
      ActionCancelled · AttemptsExhausted        how else an action may end
      ClaimLost                    inside the service: another worker runs the action by now
      ActionErrored · ActionTimeout · ConnectionFailed (retryable)      raised by the client alone
        CertificateNotTrusted

No class knows HTTP: ``server/http/edge.py`` turns a class into a status, ``client/transport.py`` turns it back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from wherry.models import Action

_PLACE = re.compile(r"(?:\b\w+://|(?<![\w./])/)[^\s,;)]*[^\s,;.:)]")
_KEY = re.compile(r"\b(?:packs|manifests|spool)/[^\s,;)]*[^\s,;.:)]")


class WherryError(Exception):
    """Anything wherry raises on purpose.

    ``id`` is the word a program may test (on the wire: the error's ``id``, or the ``code`` of a failed action),
    ``message`` a sentence for a person, ``retryable`` whether the same call may succeed later unchanged, and
    ``hint`` what to do next.
    """

    id: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    hint: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def public_message(self) -> str:
        """What the service tells its callers; ``message`` itself is for its log and its operator."""
        return self.message


class RequestError(WherryError):
    """The request can't be served as it stands.

    ``status`` and ``request_id`` are set by the client, from the reply; on the server they are None.
    """

    status: int | None = None
    request_id: str | None = None


class BadRequest(RequestError):
    """The request can't be read."""

    id = "bad_request"


class TagRefused(BadRequest):
    """No tag can be made of this.

    On the wire it has an older shape beside the usual one; the client raises it as BadRequest.
    """


class Unauthorized(RequestError):
    """The token is missing or unknown."""

    id = "unauthorized"


class Forbidden(RequestError):
    """The token lacks a scope, or the resource may not be changed."""

    id = "forbidden"


class NotFound(RequestError):
    """No such resource, or not the caller's."""

    id = "not_found"


class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""

    id = "method_not_allowed"


class Conflict(RequestError):
    """Raised by the client for a 409 of another service; wherry itself never sends one."""

    id = "conflict"


class BodyTooLarge(RequestError):
    """The request's body has more bytes than the service takes."""

    id = "payload_too_large"


class UrlTooLong(RequestError):
    """The request's path and query have more bytes than the service takes."""

    id = "uri_too_long"


class HeadersTooLarge(RequestError):
    """The request's headers have more bytes, or are more, than the service takes."""

    id = "headers_too_large"


class RequestTimeout(RequestError):
    """The request came in too slowly."""

    id = "request_timeout"
    retryable = True


class RangeNotSatisfiable(RequestError):
    """The range asked for lies outside the export."""

    id = "range_not_satisfiable"


class Unprocessable(RequestError):
    """The request is well formed, and against the rules."""

    id = "unprocessable_entity"


class MutuallyExclusive(Unprocessable):
    """Filters that exclude each other. DigitalOcean spells its id so."""

    id = "unprocessible_entity"


class RateLimited(RequestError):
    """Too many requests; ``retry_after_s`` is set for the limit of a minute only."""

    id = "too_many_requests"
    retryable = True

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotServed(RequestError):
    """A call of DigitalOcean's API that wherry does not serve."""

    id = "not_implemented"


class Unavailable(RequestError):
    """The service can't take this now; the same request may succeed later."""

    id = "service_unavailable"
    retryable = True


class InsufficientStorage(RequestError):
    """The service has no room for what the request would store; it takes it once something was deleted."""

    id = "insufficient_storage"
    hint = "Delete images and wait for the collect, or enlarge the disk; then send the request again."


class ServerFault(RequestError):
    """The service failed in a way it did not foresee; details are in its log under the request id."""

    id = "server_error"
    retryable = True


class StorageError(WherryError):
    """The bytes in a store are wrong or out of reach."""

    id = "storage_error"
    loss: ClassVar[str] = ""
    """What is lost, as a sentence; where there is none, the message says what is wrong."""

    @property
    def public_message(self) -> str:
        """What is wrong, without the names of objects and of places where they lie."""
        return self.loss or _KEY.sub("an object", _PLACE.sub("the store", self.message))


class BlockMissing(StorageError):
    """A block that a manifest names is not where the manifest says."""

    id = "block_missing"
    hint = "Transfer the image again from a region whose copy is whole; 'wherry check' lists what is missing."


class BlockCorrupt(StorageError):
    """A block's bytes do not hash to the digest they are kept under."""

    id = "block_corrupt"
    hint = "Transfer the image again from a region whose copy is whole; 'wherry check' lists what is damaged."


class ManifestMissing(StorageError):
    """The manifest the catalog names is not in the store."""

    id = "manifest_missing"
    loss = (
        "The list of the disk's blocks is missing from the store of its region, so that the disk can't be read there."
    )
    hint = "'wherry check' lists what is missing."


class ManifestCorrupt(StorageError):
    """A manifest or a pack's index can't be read, or does not match its name."""

    id = "manifest_corrupt"
    loss = "A list of blocks is damaged in the store of its region, so that what it lists can't be read there."
    hint = "'wherry check' lists what is damaged."


class KeyMissing(StorageError):
    """The key that an object was sealed with is not among those given."""

    id = "key_missing"
    hint = "Add that key to the region's keys, below the first one; a key may go once nothing is sealed with it."


class StoreFull(StorageError):
    """The region's store has no room left."""

    id = "store_full"
    hint = "Free space in the region (delete images, then 'wherry collect'), or enlarge its store; then start again."


class StoreRefused(StorageError):
    """The region's store can't be used as it is set up: no such bucket, no right to it, or it lacks what is needed."""

    id = "store_refused"
    hint = (
        "Check the region's store URL, bucket and credentials; 'wherry regions check' tries everything that is needed."
    )


class StoreUnavailable(StorageError):
    """The region's store does not answer, or refuses for a reason that may pass."""

    id = "store_unavailable"
    retryable = True
    hint = "Check that the region's store is reachable, then start the action again."


class FormatError(WherryError):
    """The file is not the disk image it claims to be, or is of a kind that is refused."""

    id = "image_invalid"
    hint = (
        "Give a raw, qcow2, vmdk, vdi, vhd or vhdx image that stands on its own, or an OVA of one disk, plain or in "
        "gzip, bzip2, xz, lzma or zstd."
    )


class ImageTooLarge(FormatError):
    """The image is larger than the service takes."""

    id = "image_too_large"
    hint = "Shrink the image, or start the service with a larger --max-image-gb."


class SourceError(WherryError):
    """The place an import reads from gives no image."""

    id = "source_error"


class SourceRefused(SourceError):
    """The URL may not be read, or its server has nothing there."""

    id = "source_refused"
    hint = "Check the URL; a private or loopback address must be allowed with --allow-import-from."


class SourceUnavailable(SourceError):
    """The URL does not answer, or its connection broke."""

    id = "source_unavailable"
    retryable = True
    hint = "Check that the URL can be reached from the service, then create the image again."


class SourceInterrupted(SourceUnavailable):
    """A download broke off, and can't go on where it was: the file has to be read from its beginning."""


class SourceTooSlow(SourceError):
    """The server sends less than an import waits for."""

    id = "source_too_slow"
    hint = "Use a faster server, upload the image, or start the service with a smaller --import-floor."


class ChecksumWrong(SourceError):
    """The file at the URL is not the one whose checksum was given."""

    id = "checksum_wrong"
    hint = "Check the URL and the checksum: it is the SHA-256 of the file as the server sends it, compressed or not."


class UploadLost(SourceError):
    """What was uploaded is not there any more, or is damaged where it is kept."""

    id = "upload_lost"
    hint = "Upload the disk image again."


class ActionCancelled(WherryError):
    """The action was cancelled by a caller."""

    id = "cancelled"
    hint = "Start the action again if it is still wanted."


class AttemptsExhausted(WherryError):
    """The process that ran the action died too often while running it."""

    id = "attempts_exhausted"
    retryable = True
    hint = "Read the service's log for why it died, then start the action again."


class ClaimLost(WherryError):
    """A worker was taken for dead, and another one runs its action by now; never seen outside the service."""

    id = "claim_lost"


class ActionErrored(WherryError):
    """An action that was waited for ended as ``errored``; ``action`` is its last state."""

    id = "action_errored"

    def __init__(self, message: str, action: Action) -> None:
        super().__init__(message)
        self.action = action


class ActionTimeout(WherryError):
    """Waiting was given up: the action made no progress for a while. It goes on; ``action`` is its last state."""

    id = "action_timeout"
    retryable = True

    def __init__(self, message: str, action: Action) -> None:
        super().__init__(message)
        self.action = action


class ConnectionFailed(WherryError):
    """The service can't be reached, or the connection broke before a reply came."""

    id = "connection_failed"
    retryable = True


class CertificateNotTrusted(ConnectionFailed):
    """The server can't prove that it is the service; nothing was sent to it."""

    id = "certificate_not_trusted"
    retryable = False
    hint = (
        "Say which CA to trust with --ca-file, WHERRY_CA_FILE or Client(ca_file=...); a service with a CA of its own "
        "keeps it in tls/ca.pem of its data folder. Names are added to its certificate with 'wherry serve --tls-name'."
    )
