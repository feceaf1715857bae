"""`route`: see model_repository/README.md. Wiring only."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import triton_python_backend_utils as pb_utils

from python_backends.preprocessing.errors import RequestError
from python_backends.routing.scorer import Scorer
from python_backends.runtime.errors import request_error
from python_backends.runtime.tensors import bytes_tensor, float_tensor, read_array


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._scorer = Scorer.load(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            judgement = self._scorer.judge(read_array(request, "embedding"), read_array(request, "features"))
        except RequestError as error:
            return request_error(error)
        score = float_tensor("score", np.array([judgement.score], dtype=np.float32))
        return pb_utils.InferenceResponse(
            output_tensors=[score, bytes_tensor("decision", msgspec.json.encode(judgement))]
        )
