"""`preprocess`: see model_repository/README.md. Wiring only."""

import json
from typing import Any

import msgspec
import triton_python_backend_utils as pb_utils

from python_backends.grammar.checker import CheckerUnavailableError, GrammarChecker
from python_backends.messages import EmbeddingOptions
from python_backends.preprocessing.errors import RequestError
from python_backends.preprocessing.parsing import parse_generation
from python_backends.preprocessing.plan import Planner
from python_backends.preprocessing.prompts import PromptBuilder
from python_backends.preprocessing.question import question_of
from python_backends.routing.features import features_of
from python_backends.runtime.errors import grammar_error, request_error
from python_backends.runtime.settings import generation_settings, repository_of
from python_backends.runtime.tensors import bytes_tensor, float_tensor, int_tensor, read_array, read_bytes

_OPTIONS = msgspec.json.encode(EmbeddingOptions(truncate="end"))


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        settings = generation_settings(repository_of(args), args["model_version"])
        self._grammars = GrammarChecker.started(settings.model_dir, settings.grammars)
        prompts = PromptBuilder.from_dir(settings.model_dir, parsers=settings.parsers)
        self._planner = Planner(prompts, settings.max_model_len, self._grammars)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        """What the engine is to do, or what the text asks, or both: what the next step wants."""
        wanted = set(request.requested_output_names())
        try:
            plan = self._plan(request) if wanted & {"input_ids", "plan"} else []
            question = self._question(request) if wanted & {"text", "features", "options"} else []
        except RequestError as error:
            return request_error(error)
        except CheckerUnavailableError as error:
            return grammar_error(error)
        return pb_utils.InferenceResponse(output_tensors=[*plan, *question])

    def _plan(self, request: Any) -> list[Any]:
        ids = read_array(request, "input_ids")
        prompt, parameters = None if ids is None else ids.tolist(), json.loads(request.parameters() or "{}")
        planned = self._planner.plan(read_bytes(request, "request"), prompt, parameters)
        return [int_tensor("input_ids", planned.input_ids), bytes_tensor("plan", msgspec.json.encode(planned.plan))]

    def _question(self, request: Any) -> list[Any]:
        text = question_of(parse_generation(read_bytes(request, "request"), pretokenized=False))
        if not text:
            raise RequestError("there is no text of a user to judge", param="messages")
        features = float_tensor("features", features_of(text))
        return [bytes_tensor("text", text.encode()), features, bytes_tensor("options", _OPTIONS)]

    def finalize(self) -> None:
        self._grammars.stop()
