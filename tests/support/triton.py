"""A direct Triton client, as a user without the gateway would write it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np

TIMEOUT = 60.0


class DirectTriton:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        return self._http.post(path, json=body)

    def stream(self, body: dict[str, Any], **parameters: Any) -> Iterator[dict[str, Any]]:
        """Deltas of one chat request; an error is the last element, as `{"error": …}`."""
        request = {"request": json.dumps(body), **parameters}
        with self._http.stream("POST", "/v2/models/chat/generate_stream", json=request) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    yield json.loads(event["delta"]) if "delta" in event else {"error": triton_error(event)}

    def deltas(self, body: dict[str, Any], **parameters: Any) -> list[dict[str, Any]]:
        return list(self.stream(body, **parameters))

    def control(self, **message: Any) -> dict[str, Any]:
        response = self.post("/v2/models/vllm/generate", {"plan": json.dumps(message)})
        answer: dict[str, Any] = json.loads(response.json()["event"])
        return answer

    def embed(self, **inputs: list[Any]) -> dict[str, Any]:
        """Output tensors by name."""
        tensors = [
            {"name": name, "datatype": "BYTES" if name == "text" else "INT32", "shape": [len(data)], "data": data}
            for name, data in inputs.items()
        ]
        response = self.post("/v2/models/embed/infer", {"inputs": tensors})
        if response.is_error:
            return {"error": triton_error(response.json())}
        return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in response.json()["outputs"]}


def triton_error(event: dict[str, str]) -> dict[str, Any]:
    """The error object within Triton's sentence."""
    text = event["error"]
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


def text_of(deltas: list[dict[str, Any]], index: int = 0) -> str:
    choices = [one["choice"] for one in deltas if one["choice"]["index"] == index]
    return "".join(one["delta"].get("content", "") if "delta" in one else one["text"] for one in choices)


def finish_of(deltas: list[dict[str, Any]], index: int = 0) -> list[str]:
    choices = [one["choice"] for one in deltas if one["choice"]["index"] == index]
    return [one["finish_reason"] for one in choices if one["finish_reason"]]
