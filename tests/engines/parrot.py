"""An engine as another package would bring it: it repeats one reply."""

from interpole.engines.base import Engine, Finished
from interpole.engines.registry import EngineKind
from interpole.records import Generation

KIND = EngineKind(name="parrot", opener="parrot:open_parrot", options=("reply",), needs_recipe=False)


class Parrot(Engine):
    def __init__(self, reply):
        self.reply, self.waiting = reply, []

    def versions(self):
        return {"engine": "parrot"}

    @property
    def busy(self):
        return bool(self.waiting)

    def abandon(self):
        self.waiting.clear()

    def _move(self, where):  # noqa: ARG002
        return ""

    def add(self, request):
        self.waiting.append(request)

    def step(self):
        self.progress += 1
        done, self.waiting = self.waiting, []
        return [Finished(one.key, Generation(str(self.reply), 1, "stop")) for one in done]


def open_parrot(_, reply="?"):
    return Parrot(reply)
