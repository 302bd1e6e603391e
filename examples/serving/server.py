"""Answers prompts over HTTP with a published ONNX model, by onnxruntime-genai alone: no torch, no transformers.

    python server.py /models/onnx --name support-tone --port 8080

POST /v1/completions           {"prompt": "…", "max_tokens": 64, "stop": "\\n"}  as OpenAI's API has it, greedy
POST /v1/models/NAME:predict   {"instances": ["…", …]}                           as KServe's V1 protocol has it
GET  /v1/models, /v1/models/NAME, /healthz

One request is worked on at a time: a CPU is faster at one answer than at two halves. The model's own prompt template is
the caller's to apply, as in `infer.py` beside the model.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import onnxruntime_genai as og

Body = dict[str, Any]
MAX_BODY = 1 << 20
DEFAULT_TOKENS = 64


class RequestError(Exception):
    """A request that cannot be answered; the message says why."""


class Model:
    """A folder in onnxruntime-genai's layout, loaded once."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._model = og.Model(str(folder))
        self._tokenizer = og.Tokenizer(self._model)
        self._tokenizer.update_options(add_special_tokens="false")
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self._context = int(config["context_length"])
        # A cache of layers that see a window of tokens is refused where it is made for fewer (Gemma 2).
        self._window = int(config["decoder"].get("sliding_window", {}).get("window_size", 0))
        ends = config["eos_token_id"]
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self._begin = self._begin_with(folder, config)
        self._lock = threading.Lock()

    @staticmethod
    def _begin_with(folder: Path, config: Body) -> list[int]:
        """The ids that the model's texts begin with, where its tokenizer adds one."""
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return [config["bos_token_id"]] if settings.get("add_bos_token") else []

    def complete(self, prompt: str, max_tokens: int = DEFAULT_TOKENS, stop: str = "") -> Body:
        """OpenAI's completion object. Raises RequestError for a prompt that leaves no room for an answer."""
        ids = [*self._begin, *self._tokenizer.encode(prompt).tolist()]
        room = min(max_tokens, self._context - len(ids))
        if not prompt or room < 1:
            raise RequestError(f"the prompt has {len(ids)} tokens; the model's context is {self._context}")
        with self._lock:
            text, count, reason = self._generate(ids, room, stop)
        usage = {"prompt_tokens": len(ids), "completion_tokens": count, "total_tokens": len(ids) + count}
        choice = {"index": 0, "text": text, "finish_reason": reason}
        return {"object": "text_completion", "model": self.name, "choices": [choice], "usage": usage}

    def _generate(self, ids: list[int], room: int, stop: str) -> tuple[str, int, str]:
        """The answer, how many tokens it took, and why it ended: at its own end or `stop`, or for its length."""
        text, count = "", 0
        for count, piece in enumerate(self._pieces(ids, room), start=1):
            text += piece
            if stop and stop in text:
                return text[: text.index(stop)], count, "stop"
        return text, count, "length" if count == room else "stop"

    def _pieces(self, ids: list[int], room: int) -> Iterator[str]:
        """The answer, token by token, `room` of them at most, its end token not among them."""
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(do_sample=False, max_length=max(len(ids) + room, self._window))
        generator, stream = og.Generator(self._model, parameters), self._tokenizer.create_stream()
        generator.append_tokens(ids)
        for _ in range(room):
            generator.generate_next_token()
            # is_done() would not tell an end token from the last one that there is room for.
            token = int(generator.get_next_tokens()[0])
            if token in self._ends:
                return
            yield stream.decode(token)


class Handler(BaseHTTPRequestHandler):
    """The routes of this module's docstring."""

    protocol_version = "HTTP/1.1"
    model: Model

    def do_GET(self) -> None:
        known = {
            "/healthz": {"status": "ok"},
            "/v1/models": {"object": "list", "data": [{"id": self.model.name, "object": "model"}]},
            f"/v1/models/{self.model.name}": {"name": self.model.name, "ready": True},
        }
        body = known.get(self.path)
        self._answer(HTTPStatus.OK, body) if body else self._refuse(HTTPStatus.NOT_FOUND, f"no {self.path} here")

    def do_POST(self) -> None:
        routes = {"/v1/completions": self._completions, f"/v1/models/{self.model.name}:predict": self._predict}
        route = routes.get(self.path)
        if route is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"no {self.path} here")
            return
        try:
            self._answer(HTTPStatus.OK, route(self._read()))
        except RequestError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))

    def _completions(self, body: Body) -> Body:
        if body.get("stream"):
            raise RequestError("stream is not offered here; leave it out")
        return self.model.complete(_text(body, "prompt"), _tokens(body), _text(body, "stop", ""))

    def _predict(self, body: Body) -> Body:
        instances = body.get("instances")
        if not isinstance(instances, list) or not all(isinstance(item, str) for item in instances):
            raise RequestError("instances: a list of texts is needed")
        answers = [self.model.complete(item, _tokens(body)) for item in instances]
        return {"predictions": [answer["choices"][0]["text"] for answer in answers]}

    def _read(self) -> Body:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_BODY:
            # What is not read would be taken for the next request.
            self.close_connection = True
            raise RequestError(f"a body of 1 to {MAX_BODY} bytes is needed")
        try:
            body = json.loads(self.rfile.read(length))
        except ValueError as error:
            raise RequestError(f"the body is no JSON: {error}") from error
        if not isinstance(body, dict):
            raise RequestError("the body is no JSON object")
        return body

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def _answer(self, status: HTTPStatus, body: Body) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _text(body: Body, name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise RequestError(f"{name}: a text is needed")
    return value


def _tokens(body: Body) -> int:
    value = body.get("max_tokens", DEFAULT_TOKENS)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError("max_tokens: a whole number above 0 is needed")
    return value


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the artifact `onnx`")
    parser.add_argument("--name", default="model", help="what the model is called")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    handler = type("ModelHandler", (Handler,), {"model": Model(given.folder, given.name)})
    server = ThreadingHTTPServer(("", given.port), handler)
    # shutdown() waits for serve_forever, which the handler of a signal interrupts: so from another thread.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"{given.name} answers on port {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
