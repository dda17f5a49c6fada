"use strict";
const known = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const form = $("form"), main = $("answers");
let asking = null; // what stops the requests in flight

function starts() { // three λ to begin with: the levels that are furthest apart, else the ends and the default
  const lams = [...new Set(known.levels.filter((level) => level.effort !== "none").map((level) => level.lam))];
  const found = lams.length >= 3 ? [lams[0], lams[Math.floor(lams.length / 2)], lams[lams.length - 1]] : [0, known.default, 1];
  return found.sort((a, b) => a - b);
}

function column(lam) {
  const root = $("column").content.firstElementChild.cloneNode(true);
  const part = (name) => root.querySelector("." + name);
  const slider = part("slider");
  const show = () => {
    const value = Number(slider.value);
    const level = known.levels.find((one) => Math.abs(one.lam - value) < 0.005);
    part("lam").textContent = "λ = " + value.toFixed(2);
    part("effort").textContent = level ? level.effort : "";
    slider.setAttribute("aria-label", "λ, from Instruct to Thinking");
    slider.setAttribute("aria-valuetext", "λ " + value.toFixed(2) + (level ? ", " + level.effort : ""));
  };
  slider.value = lam;
  slider.addEventListener("input", show);
  show();
  main.append(root);
  return { part, lam: () => Number(slider.value), text: root.querySelector("pre"), thinking: root.querySelector("details") };
}

const columns = starts().map(column);

async function* events(response) { // the data of server-sent events
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

function body(lam) {
  const asked = { model: known.name, lam, stream: true, stream_options: { include_usage: true } };
  asked.messages = [{ role: "user", content: $("prompt").value }];
  if ($("temperature").value !== "") asked.temperature = Number($("temperature").value);
  if ($("max").value !== "") asked.max_tokens = Number($("max").value);
  return asked;
}

function clear(one) {
  one.text.textContent = one.part("answer").textContent = "";
  one.thinking.hidden = true;
  one.thinking.open = false;
  one.part("status").className = "status";
  one.part("status").textContent = "waiting …";
  one.used = null;
  one.pieces = { thinking: 0, answer: 0 };
  numbers(one, 0);
}

function numbers(one, seconds) { // while it streams, pieces are counted, which are tokens or a few of them
  const used = one.used?.completion_tokens, thought = one.used?.completion_tokens_details?.reasoning_tokens;
  one.total = used ?? one.pieces.thinking + one.pieces.answer;
  one.thoughtful = thought ?? one.pieces.thinking;
  one.part("tokens").textContent = (one.used || !one.total ? "" : "~") + one.total;
  one.part("thought").textContent = (one.used || !one.thoughtful ? "" : "~") + one.thoughtful;
  one.part("seconds").textContent = seconds.toFixed(1);
  const most = Math.max(1, ...columns.map((other) => other.total || 0));
  for (const other of columns) {
    other.part("thinks").style.width = (100 * (other.thoughtful || 0)) / most + "%";
    other.part("says").style.width = (100 * ((other.total || 0) - (other.thoughtful || 0))) / most + "%";
  }
}

async function ask(one, signal) {
  clear(one);
  const begun = performance.now(), since = () => (performance.now() - begun) / 1000;
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  const status = one.part("status");
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body(one.lam())), signal });
    if (response.status === 401) $("keyed").hidden = false;
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) one.used = event.usage;
      for (const choice of event.choices) take(one, choice, status);
      numbers(one, since());
    }
  } catch (error) {
    const stopped = error.name === "AbortError";
    status.className = stopped ? "status" : "status bad";
    status.textContent = stopped ? "stopped" : error.message;
  }
}

function take(one, choice, status) {
  const { reasoning, content } = choice.delta;
  if (reasoning) {
    one.thinking.hidden = false;
    one.text.textContent = (one.text.textContent + reasoning).trimStart();
    one.pieces.thinking += 1;
    status.textContent = "thinking …";
  }
  if (content) {
    one.part("answer").textContent += content;
    one.pieces.answer += 1;
    status.textContent = "answering …";
  }
  if (choice.finish_reason) status.textContent = choice.finish_reason === "length" ? "cut at the most tokens" : "";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (asking) asking.abort();
  const mine = (asking = new AbortController());
  $("ask").disabled = true;
  $("stop").hidden = false;
  await Promise.all(columns.map((one) => ask(one, mine.signal)));
  if (asking === mine) {
    asking = null;
    $("ask").disabled = false;
    $("stop").hidden = true;
  }
});
$("stop").addEventListener("click", () => asking && asking.abort());
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("ask").disabled) form.requestSubmit();
});
