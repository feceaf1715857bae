# ruff: noqa: N818 - each name is read as an answer: "overloaded", "client gone"
"""Every way in which a request can end badly.

    GatewayError                   500  server_error           internal_error            bug: traceback in the log
    ├── InvalidRequest             400  invalid_request_error  invalid_value …           param says where
    │   ├── UnknownUrl             404                         unknown_url
    │   ├── ModelNotFound          404                         model_not_found
    │   ├── MethodNotAllowed       405                         method_not_allowed
    │   ├── PayloadTooLarge        413                         payload_too_large
    │   ├── UnsupportedMediaType   415                         unsupported_media_type
    │   └── InvalidKey             401                         invalid_api_key
    ├── MissingScope               403  permission_error       insufficient_scope
    ├── QueueTimeout               408  server_error           queue_timeout             retryable
    ├── Overloaded                 429  rate_limit_error       overloaded                retryable
    ├── ClientGone                 499  cancelled              client_gone               only ever seen in the log
    ├── BackendFailed              502  server_error           backend_failed            retryable
    │   └── BackendLost            502                         backend_lost              retryable, ejects the backend
    ├── Unavailable                503  server_error           unavailable               retryable
    │   ├── KeysUnavailable        503                         keys_unavailable
    │   ├── BackendUnavailable     503                         backend_unavailable
    │   └── ShuttingDown           503                         shutting_down
    ├── BackendTimeout             504  server_error           backend_timeout           retryable
    └── DeadlineExceeded           504  server_error           deadline_exceeded         the client's own deadline

`api/responses.py` alone renders them.
"""

from collections.abc import Mapping

CLIENT_CLOSED_REQUEST = 499


class GatewayError(Exception):
    """`message` is for the client. `retry_after` is in seconds; `headers` are added to the response."""

    status = 500
    type = "server_error"
    code = "internal_error"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after = retry_after
        self.headers = dict(headers or {})


class InvalidRequest(GatewayError):
    """Sending it again unchanged cannot help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnknownUrl(InvalidRequest):
    status = 404
    code = "unknown_url"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class PayloadTooLarge(InvalidRequest):
    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class InvalidKey(InvalidRequest):
    """No key, a malformed one, or one that is unknown, revoked or expired; which of them is not told."""

    status = 401
    code = "invalid_api_key"


class MissingScope(GatewayError):
    status = 403
    type = "permission_error"
    code = "insufficient_scope"


class QueueTimeout(GatewayError):
    status = 408
    code = "queue_timeout"
    retryable = True


class Overloaded(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    retryable = True


class ClientGone(GatewayError):
    status = CLIENT_CLOSED_REQUEST
    type = "cancelled"
    code = "client_gone"


class BackendFailed(GatewayError):
    """The backend answered, and the answer is an error or makes no sense."""

    status = 502
    code = "backend_failed"
    retryable = True


class BackendLost(BackendFailed):
    """The connection could not be made or broke."""

    code = "backend_lost"


class Unavailable(GatewayError):
    status = 503
    code = "unavailable"
    retryable = True


class KeysUnavailable(Unavailable):
    """The key store is away and this key is not among those known here: it may well be good."""

    code = "keys_unavailable"


class BackendUnavailable(Unavailable):
    code = "backend_unavailable"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class BackendTimeout(GatewayError):
    status = 504
    code = "backend_timeout"
    retryable = True


class DeadlineExceeded(GatewayError):
    status = 504
    code = "deadline_exceeded"
