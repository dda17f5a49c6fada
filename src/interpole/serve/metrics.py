"""Counters for Prometheus, by λ: requests, tokens, latency, and Think #R as it is now.

λ is a label to the nearest 0.05, so that requests at any λ make no more than 21 series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from interpole.serve.answer import Choice, Item
from interpole.serve.call import Call

__all__ = ["Metrics", "Watch"]

GRID = 20  # labels of λ per unit
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """All counters of one server."""

    def __init__(self, num_running: Callable[[], int], num_requests: Callable[[], int]) -> None:
        """Begin at zero; the gauges ask when they are read."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"interpole_{name}", words, labels, registry=registry)

        def histogram(name: str, words: str) -> Histogram:
            return Histogram(f"interpole_{name}", words, ("lam",), buckets=SECONDS, registry=registry)

        self.requests = counter("requests", "Requests by how they ended.", "endpoint", "lam", "status")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.", "lam")
        self.completion_tokens = counter("completion_tokens", "Tokens generated.", "lam")
        self.reasoning_tokens = counter("reasoning_tokens", "Of those, tokens of thoughts.", "lam")
        self.responses = counter("responses", "Responses that were finished.", "lam")
        self.thought_responses = counter("thought_responses", "Of those, with a thought that was closed.", "lam")
        self.first_token = histogram("time_to_first_token_seconds", "From the request to its first token.")
        self.seconds = histogram("request_seconds", "From the request to its last token.")
        self.think = Gauge(
            "interpole_think_ratio", "Think #R: share of responses with a closed thought.", ("lam",), registry=registry
        )
        self._thought: dict[str, tuple[int, int]] = {}
        for name, words, ask in (
            ("running", "Rows in the batch.", num_running),
            ("in_flight", "Requests in flight, those that wait among them.", num_requests),
        ):
            Gauge(f"interpole_requests_{name}", words, registry=registry).set_function(ask)

    def page(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self._registry)

    def refused(self, endpoint: str, status: int) -> None:
        """A request that did not come to its λ."""
        self.requests.labels(endpoint, "", str(status)).inc()

    def add_choice(self, lam: str, choice: Choice) -> None:
        """A response that is finished."""
        self.completion_tokens.labels(lam).inc(choice.num_tokens)
        self.reasoning_tokens.labels(lam).inc(choice.num_thinking_tokens)
        self.responses.labels(lam).inc()
        self.thought_responses.labels(lam).inc(choice.thought)
        thought, total = self._thought.get(lam, (0, 0))
        self._thought[lam] = thought, total = thought + choice.thought, total + 1
        self.think.labels(lam).set(thought / total)


class Watch:
    """Notes what becomes of one request."""

    def __init__(self, metrics: Metrics, endpoint: str, calls: Sequence[Call]) -> None:
        self._metrics, self._endpoint = metrics, endpoint
        self._lam = f"{round(calls[0].chosen.lam * GRID) / GRID:.2f}"
        self._start, self._begun = time.monotonic(), False
        metrics.prompt_tokens.labels(self._lam).inc(sum(call.num_prompt_tokens for call in calls))

    def see(self, item: Item) -> None:
        """Something came."""
        if item is not None and not self._begun:
            self._begun = True
            self._metrics.first_token.labels(self._lam).observe(time.monotonic() - self._start)
        if isinstance(item, Choice):
            self._metrics.add_choice(self._lam, item)

    def end(self, status: int) -> None:
        """It is over; 499: the client hung up."""
        self._metrics.requests.labels(self._endpoint, self._lam, str(status)).inc()
        self._metrics.seconds.labels(self._lam).observe(time.monotonic() - self._start)
