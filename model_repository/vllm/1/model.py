"""`vllm`: see model_repository/README.md. Wiring only."""

from typing import Any

from python_backends.runtime.generation import GenerationModel
from python_backends.runtime.settings import generation_settings, repository_of


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._model = GenerationModel(
            generation_settings(repository_of(args), args["model_version"]), args["model_version"]
        )
        self._model.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._model.execute(request)

    def finalize(self) -> None:
        self._model.stop()
