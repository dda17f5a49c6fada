"""An engine that writes as many letters as it is told, or what it is told; its tokens are characters."""

import time

from interpole.chat import Markers, ThinkFormat
from interpole.engines.base import Finished, Token
from interpole.errors import EngineError
from interpole.records import Generation, Sampler
from interpole.serve.app import Limits, Server
from interpole.serve.driver import Driver
from interpole.serve.levels import Level, Levels
from interpole.serve.served import Served

END = 0
TEMPLATE = "{{ messages[-1].content }}"


class Letters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, tokens, **_):
        return "".join(map(chr, tokens))


class WrittenEngine:
    """Answers `say N` with N letters, `write TEXT` with the text; its next `fails` steps fail, and that at `fails_at_step`.

    It begins when so many wait as it `begins_with`.
    """

    def __init__(self, max_rows=16, step_seconds=0.0, begins_with=0):
        self.max_rows, self.step_seconds, self.begins_with = max_rows, step_seconds, begins_with
        self.waiting, self.rows, self.drawn = [], {}, []
        self.fails, self.fails_at_step, self.num_steps = 0, None, 0
        self.holds = None  # an event that the next steps wait for
        self.lams = set()
        self.most_rows = 0

    busy = property(lambda self: bool(self.waiting or self.rows))
    num_running = property(lambda self: len(self.rows))
    moving = False
    num_waiting = property(lambda self: len(self.waiting))

    def add(self, request):
        if "refuse" in request.prompt:
            raise EngineError("this prompt is refused")
        self.waiting.append(request)

    def cancel(self, key):
        self.waiting = [request for request in self.waiting if request.key != key]
        self.rows.pop(key, None)

    def abandon(self):
        self.waiting, self.rows = [], {}

    def events(self):
        drawn, self.drawn = self.drawn, []
        return drawn

    def step(self):
        time.sleep(self.step_seconds)
        if self.holds is not None:
            self.holds.wait()
        if len(self.waiting) < self.begins_with:
            return []
        self.begins_with = 0
        self.num_steps += 1
        self.fails += self.num_steps == self.fails_at_step
        if self.fails:
            self.fails -= 1
            raise RuntimeError("out of memory")
        while self.waiting and len(self.rows) < self.max_rows:
            request = self.waiting.pop(0)
            number = int(request.prompt.split("say ")[1].split()[0]) if "say " in request.prompt else 3
            _, told, text = request.prompt.partition("write ")
            text = f"<think>{text or 'so'}</think>{text if told else 'x' * number}"
            self.rows[request.key] = (request, [ord(letter) for letter in text] + [END], [])
            self.lams.add(request.lam)
        self.most_rows = max(self.most_rows, len(self.rows))
        finished = []
        for key, (request, left, done) in list(self.rows.items()):
            done.append(left.pop(0))
            self.drawn.append(Token(key, done[-1], -0.5, ((done[-1], -0.5),)))
            finish = "stop" if done[-1] == END else "length" if len(done) >= request.sampler.max_tokens else ""
            if finish:
                text = "".join(map(chr, done[:-1] if finish == "stop" else done))
                finished.append(Finished(key, Generation(text, len(done), finish)))
                del self.rows[key]
        return finished


def server_of(engine, *, max_requests=1000, name="pair", **options):
    """A server over an engine that is written."""
    form = ThinkFormat(Markers("<think>", "</think>"), TEMPLATE)
    levels = Levels(0.5, {"low": Level(0.2), "high": Level(1.0)}, name)
    served = Served(levels, (form, form), (Sampler(max_tokens=1),) * 2, Letters(), 100_000, "f" * 64)
    options = {"limits": Limits(), **options}
    return Server(served, Driver(engine, max_requests=max_requests), **options)
