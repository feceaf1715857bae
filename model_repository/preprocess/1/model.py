"""`preprocess`: see model_repository/README.md. Wiring only."""

import json
from typing import Any

import msgspec
import triton_python_backend_utils as pb_utils

from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.plan import Planner
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.runtime.errors import request_error
from python_backends.runtime.settings import generation_settings, repository_of
from python_backends.runtime.tensors import bytes_tensor, int_tensor, read_array, read_bytes


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        settings = generation_settings(repository_of(args))
        self._planner = Planner(PromptBuilder.from_dir(settings.model_dir), settings.max_model_len)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        ids = read_array(request, "input_ids")
        try:
            planned = self._planner.plan(
                read_bytes(request, "request"),
                None if ids is None else ids.tolist(),
                json.loads(request.parameters() or "{}"),
            )
        except RequestError as error:
            return request_error(error)
        plan = bytes_tensor("plan", msgspec.json.encode(planned.plan))
        return pb_utils.InferenceResponse(output_tensors=[int_tensor("input_ids", planned.input_ids), plan])
