"""Counters for Prometheus, by λ: requests, tokens, latency, and Think #R as it is now.

λ is a label to the nearest 0.05, so that requests at any λ make no more than 21 series. Both servers count by these: ours, and
the middleware before vLLM's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from interpole.serve.levels import AUTO, Chosen

__all__ = ["GONE", "METRICS_TYPE", "PREFIX", "Metrics", "Watch"]

GONE = 499  # the client hung up; the status that proxies log
PREFIX = "interpole_"
"""How the names of all counters begin."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GRID = 20  # labels of λ per unit
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """All counters of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._registry = registry = CollectorRegistry()

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}{name}", words, labels, registry=registry)

        def histogram(name: str, words: str) -> Histogram:
            return Histogram(f"{PREFIX}{name}", words, ("lam",), buckets=SECONDS, registry=registry)

        self.requests = counter("requests", "Requests by how they ended.", "endpoint", "lam", "status")
        self.auto = counter("auto_requests", "Requests whose λ the policy chose.", "lam")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.", "lam")
        self.completion_tokens = counter("completion_tokens", "Tokens generated.", "lam")
        self.reasoning_tokens = counter("reasoning_tokens", "Of those, tokens of thoughts.", "lam")
        self.responses = counter("responses", "Responses that were finished.", "lam")
        self.thought_responses = counter("thought_responses", "Of those, with a thought that was closed.", "lam")
        self.first_token = histogram("time_to_first_token_seconds", "From the request to its first token.")
        self.seconds = histogram("request_seconds", "From the request to its last token.")
        self.think = Gauge(
            f"{PREFIX}think_ratio", "Think #R: share of responses with a closed thought.", ("lam",), registry=registry
        )
        self._thought: dict[str, tuple[int, int]] = {}

    def gauge(self, name: str, words: str, ask: Callable[[], int]) -> None:
        """Add a number of requests that is asked for when it is read."""
        Gauge(f"{PREFIX}requests_{name}", words, registry=self._registry).set_function(ask)

    def page(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self._registry)

    def refused(self, endpoint: str, status: int) -> None:
        """A request that did not come to its λ."""
        self.requests.labels(endpoint, "", str(status)).inc()

    def think_ratio(self, lam: str, num_thoughts: int, num_responses: int) -> None:
        """Responses that are finished, and how many of them closed a thought."""
        thought, total = self._thought.get(lam, (0, 0))
        self._thought[lam] = thought, total = thought + num_thoughts, total + num_responses
        self.think.labels(lam).set(thought / total)


class Watch:
    """Notes what becomes of one request."""

    def __init__(self, metrics: Metrics, endpoint: str, chosen: Chosen) -> None:
        self._metrics, self._endpoint = metrics, endpoint
        self._lam = f"{round(chosen.lam * GRID) / GRID:.2f}"
        if chosen.effort == AUTO:
            metrics.auto.labels(self._lam).inc()
        self._start, self._begun = time.monotonic(), False

    def asked(self, num_prompt_tokens: int) -> None:
        """Its prompts were counted."""
        self._metrics.prompt_tokens.labels(self._lam).inc(num_prompt_tokens)

    def begin(self) -> None:
        """Something came; what counts is the first time."""
        if not self._begun:
            self._begun = True
            self._metrics.first_token.labels(self._lam).observe(time.monotonic() - self._start)

    def answered(self, num_tokens: int, num_thinking_tokens: int, *, num_thoughts: int, num_responses: int = 1) -> None:
        """Responses are finished, of so many tokens; `num_thoughts` of them closed a thought."""
        self._metrics.completion_tokens.labels(self._lam).inc(num_tokens)
        self._metrics.reasoning_tokens.labels(self._lam).inc(num_thinking_tokens)
        self._metrics.responses.labels(self._lam).inc(num_responses)
        self._metrics.thought_responses.labels(self._lam).inc(num_thoughts)
        self._metrics.think_ratio(self._lam, num_thoughts, num_responses)

    def end(self, status: int) -> None:
        """It is over; `GONE`: the client hung up."""
        self._metrics.requests.labels(self._endpoint, self._lam, str(status)).inc()
        self._metrics.seconds.labels(self._lam).observe(time.monotonic() - self._start)
