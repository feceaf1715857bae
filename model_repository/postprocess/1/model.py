"""`postprocess`: see model_repository/README.md. Wiring only."""

from typing import Any

import triton_python_backend_utils as pb_utils

from python_backends.postprocessing.errors import StreamError
from python_backends.postprocessing.stream import DeltaWriter
from python_backends.runtime.errors import error_response
from python_backends.runtime.tensors import bytes_tensor, read_array, read_bytes


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._writer = DeltaWriter()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        tokens = read_array(request, "token_ids")
        count = 0 if tokens is None else tokens.size
        try:
            delta = self._writer.write(count, read_bytes(request, "text"), read_bytes(request, "event"))
        except StreamError as error:
            return error_response(error.body, pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(output_tensors=[bytes_tensor("delta", delta)])
