"""Our errors as Triton errors: an OpenAI error object as the message, and the class that fits it best."""

from typing import Any

import msgspec
import triton_python_backend_utils as pb_utils

from python_backends.grammar.checker import CheckerUnavailableError
from python_backends.llm.engine import EngineError
from python_backends.messages import ErrorBody
from python_backends.preprocessing.errors import RequestError

_BAD_REQUEST = 400
_NOT_FOUND = 404
_UNAVAILABLE = 503


def request_error(error: RequestError) -> Any:
    """An InferenceResponse with INVALID_ARG."""
    body = ErrorBody(message=error.message, type="invalid_request_error", code=error.code, param=error.param)
    return error_response(body, pb_utils.TritonError.INVALID_ARG)


def engine_error(error: EngineError) -> Any:
    """An InferenceResponse with the Triton code that means what `error.status` means."""
    codes = {
        _BAD_REQUEST: pb_utils.TritonError.INVALID_ARG,
        _NOT_FOUND: pb_utils.TritonError.NOT_FOUND,
        _UNAVAILABLE: pb_utils.TritonError.UNAVAILABLE,
    }
    return error_response(error.body, codes.get(error.status, pb_utils.TritonError.INTERNAL))


def grammar_error(error: CheckerUnavailableError) -> Any:
    """An InferenceResponse with UNAVAILABLE: the request may be as good as any."""
    message = f"forms of answers cannot be checked now: {error}"
    return engine_error(EngineError(message, code="grammar_unavailable", status=_UNAVAILABLE))


def error_response(body: ErrorBody, code: Any) -> Any:
    """An InferenceResponse with the error object as its message."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(msgspec.json.encode(body).decode(), code))
