# ruff: noqa: N818 - each name is read as an answer: "overloaded", "client gone"
"""Every way in which a request can end badly.

    GatewayError                   500  server_error           internal_error            bug: traceback in the log
    ├── InvalidRequest             400  invalid_request_error  invalid_value …           param says where
    │   ├── UnknownUrl             404                         unknown_url
    │   ├── ModelNotFound          404                         model_not_found
    │   ├── MethodNotAllowed       405                         method_not_allowed
    │   ├── PayloadTooLarge        413                         payload_too_large
    │   ├── UnsupportedMediaType   415                         unsupported_media_type
    │   ├── InvalidKey             401                         invalid_api_key
    │   ├── NotFound               404                         not_found                 admin API, and feedback
    │   ├── Conflict               409                         conflict                  of the admin API
    │   ├── IdempotencyMismatch    422                         idempotency_key_reused
    │   ├── NoModelFits            400                         no_model_fits             of a router
    │   └── ExceedsLimit           400                         exceeds_limit             waiting could never help
    ├── MissingScope               403  permission_error       insufficient_scope
    │   ├── ModelNotAllowed        403                         model_not_allowed
    │   └── UnknownTenant          403                         unknown_tenant            of a token, not of a key
    ├── InProgress                 409  conflict_error         idempotency_in_progress   retryable
    ├── QueueTimeout               408  server_error           queue_timeout             retryable
    ├── Overloaded                 429  rate_limit_error       overloaded                retryable
    │   ├── DeadlineUnmeetable     429                         deadline_unmeetable
    │   ├── RateLimited            429                         rate_limit_exceeded
    │   └── TooManyFailures        429                         too_many_failed_attempts
    ├── QuotaExceeded              429  insufficient_quota     insufficient_quota        not retryable
    ├── ClientGone                 499  cancelled              client_gone               only ever seen in the log
    ├── BackendFailed              502  server_error           backend_failed            retryable
    │   └── BackendLost            502                         backend_lost              retryable, ejects the backend
    ├── Unavailable                503  server_error           unavailable               retryable
    │   ├── KeysUnavailable        503                         keys_unavailable
    │   ├── LimitsUnavailable      503                         limits_unavailable        only with the policy `closed`
    │   ├── GrammarUnavailable     503                         grammar_unavailable
    │   ├── BackendUnavailable     503                         backend_unavailable
    │   ├── PlanSkipped            503                         plan_skipped              never seen outside
    │   ├── AdapterUnavailable     503                         adapter_unavailable       not the backend's fault
    │   ├── AdaptersUnavailable    503                         adapters_unavailable      of the admin API
    │   ├── Shed                   503                         shed
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


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class Conflict(InvalidRequest):
    status = 409
    code = "conflict"


class IdempotencyMismatch(InvalidRequest):
    """The `Idempotency-Key` came before, with another body."""

    status = 422
    code = "idempotency_key_reused"


class NoModelFits(InvalidRequest):
    """No candidate of the router can serve this request; the message says of each why not."""

    code = "no_model_fits"


class ExceedsLimit(InvalidRequest):
    """The request alone is larger than a limit of its key or tenant ever allows."""

    code = "exceeds_limit"


class MissingScope(GatewayError):
    status = 403
    type = "permission_error"
    code = "insufficient_scope"


class ModelNotAllowed(MissingScope):
    code = "model_not_allowed"


class UnknownTenant(MissingScope):
    """A good token of somebody who is no tenant here."""

    code = "unknown_tenant"


class InProgress(GatewayError):
    """A request with this `Idempotency-Key` is being answered now."""

    status = 409
    type = "conflict_error"
    code = "idempotency_in_progress"
    retryable = True


class QueueTimeout(GatewayError):
    status = 408
    code = "queue_timeout"
    retryable = True


class Overloaded(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    retryable = True


class RateLimited(Overloaded):
    """A limit of the key or the tenant; `retry_after` is exact."""

    code = "rate_limit_exceeded"


class TooManyFailures(Overloaded):
    """Too many wrong keys from this address."""

    code = "too_many_failed_attempts"


class QuotaExceeded(GatewayError):
    """What a day or month allows is used up: retrying does not help until then."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class DeadlineUnmeetable(Overloaded):
    """Its turn is expected after its deadline: told at once, with the estimate."""

    code = "deadline_unmeetable"


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


class LimitsUnavailable(Unavailable):
    """Limits cannot be checked, and the policy is to let nobody in then."""

    code = "limits_unavailable"


class GrammarUnavailable(Unavailable):
    """Nobody can say now whether an answer of the form that was asked for can be written."""

    code = "grammar_unavailable"


class BackendUnavailable(Unavailable):
    code = "backend_unavailable"


class PlanSkipped(Unavailable):
    """How hard a text is was not asked. Requests go on without."""

    code = "plan_skipped"


class AdapterUnavailable(Unavailable):
    """This adapter is missing or damaged there; whoever asks for anything else is served."""

    code = "adapter_unavailable"


class AdaptersUnavailable(Unavailable):
    """The registry cannot be reached; adapters that this gateway knows go on."""

    code = "adapters_unavailable"


class Shed(Unavailable):
    """Refused for its class, to keep room for more urgent ones."""

    code = "shed"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class BackendTimeout(GatewayError):
    status = 504
    code = "backend_timeout"
    retryable = True


class DeadlineExceeded(GatewayError):
    status = 504
    code = "deadline_exceeded"
