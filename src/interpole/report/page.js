/* The page's one script. It draws no chart: it moves a cursor over the charts that are already there, fills read-outs,
   and shows one question's responses. Texts of models and data sets enter the page by textContent only. */
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const source = $("index");
  const TASKS = JSON.parse(source.dataset.tasks),
    BANDS = JSON.parse(source.dataset.bands);
  const PAGE = 60;
  let DATA,
    shown = [],
    limit = PAGE,
    playing = null;
  const chunks = new Map();
  const state = { task: TASKS[0], point: 0, question: null, sample: 0, found: null };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("--")) element.style.setProperty(name, value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };

  async function unpack(element) {
    const binary = atob(element.textContent.trim());
    const bytes = Uint8Array.from(binary, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  const chunk = (number) => {
    if (!chunks.has(number)) chunks.set(number, unpack($("chunk-" + number)));
    return chunks.get(number);
  };

  // ── what is measured ──
  const measured = (point = state.point) => DATA.byKey.get(state.task + "\n" + DATA.points[point].name);
  const dial = () => DATA.points.map((_, i) => i).filter((i) => DATA.points[i].lam !== null && measured(i));
  const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1) + " %");
  const number = (x) => (x === null ? "–" : x.toLocaleString("en", { maximumFractionDigits: x < 100 ? 1 : 0 }));
  const range = (interval, show) => (interval[1] === null ? "" : show(interval[1]) + " – " + show(interval[2]));
  const colour = (name) => `var(--${name})`;

  // ── the dial ──
  function setPoint(index, { move = true } = {}) {
    state.point = index;
    const point = DATA.points[index];
    $("lam").textContent = point.lam === null ? point.name : "λ " + point.lam.toFixed(2).replace(/0$/, "");
    if (point.lam !== null) {
      if (move) $("slider").value = point.lam;
      $("slider").setAttribute("aria-valuetext", point.label);
    }
    drawNow();
    drawCursors();
    drawHeat();
    for (const row of all("tr[data-point]")) row.classList.toggle("here", row.dataset.point === point.name);
    if (["mixed", "unfinished"].includes($("filter")?.value)) drawList();
    state.sample = Math.min(state.sample, Math.max(0, samples().length - 1));
    drawQuestion();
    remember();
  }
  function nearest(lam) {
    const points = dial();
    return points.reduce(
      (best, i) => (Math.abs(DATA.points[i].lam - lam) < Math.abs(DATA.points[best].lam - lam) ? i : best),
      points[0],
    );
  }
  function step(by) {
    const on = dial(),
      points = on.length ? on : DATA.points.map((_, i) => i).filter((i) => measured(i)),
      at = points.indexOf(state.point);
    if (!points.length) return;
    setPoint(points[Math.min(points.length - 1, Math.max(0, (at < 0 ? 0 : at) + by))]);
  }
  function drawRail() {
    const slider = $("slider"),
      low = +slider.min,
      width = +slider.max - low,
      at = (lam) => (100 * (lam - low)) / width + "%";
    const band = BANDS[state.task];
    $("rail").replaceChildren(
      ...dial().map((i) => {
        const b = make("b");
        b.style.left = at(DATA.points[i].lam);
        return b;
      }),
    );
    if (band) {
      const i = make("i");
      i.style.left = at(band[0]);
      i.style.width = (100 * (band[1] - band[0])) / width + "%";
      $("rail").prepend(i);
    }
  }
  function drawNow() {
    const m = measured();
    if (!m) return ($("now").replaceChildren(), $("mix").replaceChildren());
    const entries = [
      ["Mean@" + m.k, "blue", m.mean, percent],
      ["Think #R", "orange", m.think, percent],
      ["Token #N", "green", m.tokens, number],
    ];
    $("now").replaceChildren(
      ...entries.map(([name, hue, interval, show]) =>
        make(
          "div",
          {},
          make("dt", { "--c": colour(hue) }, name),
          make("dd", {}, show(interval[0]), make("small", {}, range(interval, show))),
        ),
      ),
    );
    $("mix").replaceChildren(
      ...m.outcomes.flatMap((n, o) => (n ? [make("i", { "--c": colour(DATA.outcomes[o].colour), "--n": n })] : [])),
    );
    const total = m.outcomes.reduce((a, b) => a + b, 0),
      ever = DATA.outcomes.map((_, o) => DATA.metrics.some((x) => x.task === state.task && x.outcomes[o]));
    const forced = m.forced ? ` (${percent(m.forced / total)} with a thought closed by force)` : "";
    for (const line of all("[data-at]"))
      line.textContent = `At ${DATA.points[state.point].label}, of ${total.toLocaleString("en")} responses${forced}:`;
    for (const legend of all("[data-legend]")) {
      legend.replaceChildren(
        ...m.outcomes.flatMap((n, o) =>
          ever[o]
            ? [
                make(
                  "li",
                  { class: n ? "" : "none" },
                  make("span", { "--c": colour(DATA.outcomes[o].colour) }, DATA.outcomes[o].label),
                  make("b", {}, percent(n / total)),
                ),
              ]
            : [],
        ),
      );
    }
  }
  function drawCursors() {
    const point = DATA.points[state.point];
    for (const figure of all(".chart")) {
      for (const mark of all("[data-point]", figure)) mark.classList.toggle("here", mark.dataset.point === point.name);
      if (!figure.dataset.width) continue;
      let line = figure.querySelector(".cursor");
      if (!line) {
        line = document.createElementNS("http://www.w3.org/2000/svg", "line");
        line.setAttribute("class", "cursor");
        figure.querySelector("svg > g").append(line);
      }
      line.style.display = point.lam === null ? "none" : "";
      const x = (figure.dataset.width * (point.lam - figure.dataset.low)) / (figure.dataset.high - figure.dataset.low);
      for (const [name, value] of Object.entries({ x1: x, x2: x, y1: 0, y2: figure.dataset.height }))
        line.setAttribute(name, value);
    }
  }
  function drag(figure, event) {
    const group = figure.querySelector("svg > g"),
      at = new DOMPoint(event.clientX, event.clientY).matrixTransform(group.getScreenCTM().inverse());
    const low = +figure.dataset.low,
      lam = low + (at.x / figure.dataset.width) * (figure.dataset.high - low),
      index = nearest(lam);
    if (index !== state.point) setPoint(index);
  }
  function play() {
    if (playing) {
      clearInterval(playing);
      playing = null;
      $("play").textContent = "▶";
      return;
    }
    const points = dial();
    if (state.point === points.at(-1) || DATA.points[state.point].lam === null) setPoint(points[0]);
    $("play").textContent = "❚❚";
    playing = setInterval(() => {
      step(1);
      if (state.point === points.at(-1)) play();
    }, 700);
  }

  // ── tasks ──
  function setTask(task) {
    state.task = task;
    for (const element of all("[data-task]")) element.hidden = element.dataset.task !== task;
    for (const tab of all("[data-choose]")) tab.setAttribute("aria-pressed", String(tab.dataset.choose === task));
    const names = [
      ...new Set(
        DATA.questions
          .filter((q) => q.task === task)
          .map((q) => q.difficulty)
          .filter(Boolean),
      ),
    ].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    if ($("difficulty")) {
      $("difficulty").replaceChildren(
        make("option", { value: "" }, "all"),
        ...names.map((name) => make("option", { value: name }, name)),
      );
      $("difficulty-label").hidden = names.length < 2;
    }
    drawRail();
    const points = dial();
    if (!measured()) state.point = points[0] ?? DATA.points.findIndex((_, i) => measured(i));
    filter();
    if (!state.question || state.question.task !== task) {
      state.question = shown[0] ?? null;
      state.sample = 0;
    }
    drawList();
    setPoint(state.point);
  }

  // ── questions ──
  const right = (code) => (code.charCodeAt(0) - 65) % 2 === 1;
  const outcome = (code) => DATA.outcomes[(code.charCodeAt(0) - 65) >> 1];
  const share = (cells) => (cells ? [...cells].filter(right).length / cells.length : null);
  function passes(question, kind) {
    if (kind === "all") return true;
    const here = question.cells[state.point] ?? "";
    if (kind === "mixed") {
      const s = share(here);
      return s > 0 && s < 1;
    }
    if (kind === "unfinished") return [...here].some((code) => outcome(code).unfinished);
    const on = dial(),
      shares = (on.length ? on : DATA.points.map((_, i) => i))
        .map((i) => share(question.cells[i]))
        .filter((s) => s !== null),
      mostly = shares.map((s) => s > 0.5);
    if (kind === "flips") return new Set(mostly).size > 1;
    if (kind === "won") return !mostly[0] && mostly.at(-1);
    if (kind === "lost") return mostly[0] && !mostly.at(-1);
    return shares.every((s) => s === (kind === "always" ? 1 : 0));
  }
  function filter() {
    if (!$("search")) return;
    const words = wanted();
    const difficulty = $("difficulty").value;
    const kind = $("filter").value;
    shown = DATA.questions.filter(
      (q) =>
        q.task === state.task &&
        (!difficulty || q.difficulty === difficulty) &&
        (holds(q.haystack, words) || state.found?.has(q)) &&
        passes(q, kind),
    );
  }
  const wanted = () => $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  async function search() {
    const words = wanted();
    limit = PAGE;
    state.found = null;
    drawList();
    if (!$("deep").checked || !words.length) return;
    $("count").textContent = "searching …";
    const found = new Set();
    for (const q of DATA.questions) {
      const [at, place] = q.at;
      const texts = (await chunk(at))[place].rows
        .flat()
        .map((response) => response.parts.map((part) => part[1]).join(""));
      if (wanted().join(" ") !== words.join(" ") || !$("deep").checked) return; // asked for something else meanwhile
      if (texts.some((text) => holds(text.toLowerCase(), words))) found.add(q);
    }
    state.found = found;
    drawList();
  }
  const holds = (text, words) => words.every((word) => text.includes(word));
  function drawList() {
    if (!$("list")) return;
    filter();
    $("count").textContent = shown.length.toLocaleString("en") + (shown.length === 1 ? " question" : " questions");
    $("list").replaceChildren(
      ...shown.slice(0, limit).map((q) => {
        const button = make(
          "button",
          { type: "button", "aria-current": String(q === state.question), tabindex: "-1" },
          make("span", { class: "q" }, q.text || q.id),
          make(
            "span",
            { class: "d" },
            make("span", {}, [q.difficulty, q.text ? q.id : "text withheld"].filter(Boolean).join(" · ")),
            heat(q),
          ),
        );
        button.addEventListener("click", () => {
          state.question = q;
          state.sample = 0;
          select();
        });
        button.question = q;
        return make("li", {}, button);
      }),
    );
    rove();
    $("more").hidden = shown.length <= limit;
  }
  /* The list is one tab stop: the question that is open, or the one that was walked to by arrows. */
  function rove(button) {
    const buttons = all("#list button");
    const stop = button ?? buttons.find((one) => one.question === state.question) ?? buttons[0];
    for (const one of buttons) one.tabIndex = one === stop ? 0 : -1;
  }
  function heat(question) {
    const box = make("span", { class: "heat", "aria-hidden": "true" });
    for (const i of dial()) {
      const cell = make("i", { class: i === state.point ? "here" : "", "--v": share(question.cells[i]) ?? 0 });
      cell.point = i;
      box.append(cell);
    }
    return box;
  }
  function drawHeat() {
    for (const cell of all(".heat i")) cell.classList.toggle("here", cell.point === state.point);
  }
  function select() {
    for (const button of all("#list button"))
      button.setAttribute("aria-current", String(button.question === state.question));
    rove();
    drawQuestion();
    remember();
  }
  const samples = () => state.question?.cells[state.point] ?? "";
  async function drawQuestion() {
    const q = state.question;
    if (!$("detail")) return;
    $("detail").hidden = !q;
    if (!q) return;
    $("q-meta").textContent = [q.id, q.difficulty].filter(Boolean).join(" · ");
    $("q-text").textContent = q.text || "The text of this question is left out.";
    $("q-target").textContent = q.target ? "expected: " + q.target : "";
    drawStrip(q);
    const number = state.point;
    const [at, place] = q.at;
    const { prompt, rows } = (await chunk(at))[place];
    if (q !== state.question || number !== state.point) return; // moved on while unpacking
    $("q-prompt").hidden = !prompt;
    $("q-prompt").querySelector("pre").textContent = prompt;
    drawResponse(rows[number]?.[state.sample]);
  }
  function drawStrip(q) {
    $("strip").replaceChildren(
      ...DATA.points.flatMap((point, i) => {
        if (!q.cells[i]) return [];
        const column = make(
          "div",
          { class: i === state.point ? "column here" : "column" },
          make("span", {}, point.lam === null ? point.name : String(point.lam)),
        );
        [...q.cells[i]].forEach((code, sample) => {
          const here = i === state.point && sample === state.sample,
            kind = outcome(code),
            word = right(code) ? "right" : "wrong";
          const button = make("button", {
            type: "button",
            tabindex: "-1",
            class: `${word}${here ? " here" : ""}`,
            "--c": colour(kind.colour),
            title: `${point.label}, sample ${sample + 1}: ${kind.label}, ${word}`,
            "aria-label": `${point.label}, sample ${sample + 1}: ${kind.label}, ${word}`,
          });
          button.addEventListener("click", () => {
            state.sample = sample;
            setPoint(i);
          });
          column.append(button);
        });
        return [column];
      }),
    );
    keepInView($("strip").querySelector(".here"));
    const most = Math.max(...q.cells.map((c) => c.length));
    $("strip").style.setProperty("--cell", most > 24 ? "5px" : most > 10 ? "9px" : "14px");
  }
  function keepInView(column) {
    const box = $("strip").parentElement;
    if (!column) return;
    const from = column.offsetLeft; // in the box, which is positioned
    const to = from + column.offsetWidth;
    if (from < box.scrollLeft || to > box.scrollLeft + box.clientWidth) {
      box.scrollLeft = (from + to - box.clientWidth) / 2;
    }
  }
  function drawResponse(response) {
    const box = $("response"),
      cells = samples();
    if (!response) {
      $("r-meta").textContent = "No response at this point.";
      box.replaceChildren();
      return;
    }
    const code = cells[state.sample],
      grades = Object.entries(response.grades)
        .map(([name, score]) => `${name} ${+score.toFixed(3)}`)
        .join(", ");
    const which = `${DATA.points[state.point].label}, sample ${state.sample + 1} of ${cells.length}`;
    const facts = [
      outcome(code).label + (response.forced ? " (thought closed by force)" : ""),
      response.chosen === null ? "" : `answered at λ=${response.chosen}`,
      `${response.tokens.toLocaleString("en")} tokens`,
      response.answer === null ? "" : `answer read: ${response.answer}`,
      grades,
    ];
    $("r-meta").replaceChildren(
      make("b", {}, `${which}: ${right(code) ? "right" : "wrong"}`),
      " · " + facts.filter(Boolean).join(" · "),
    );
    box.replaceChildren(
      ...(response.error ? [make("span", { class: "gap" }, response.error)] : pieces(response.parts)),
    );
    box.scrollTop = 0;
  }
  const KINDS = { thinking: "span", answer: "span", marker: "mark", gap: "span" };
  function pieces(parts) {
    if (!parts.length) return [make("span", { class: "gap" }, state.question.text ? "(empty)" : "(text left out)")];
    const left = (length) => `\n[… ${length.toLocaleString("en")} characters left out …]\n`;
    return parts.map(([kind, text]) => make(KINDS[kind], { class: kind }, kind === "gap" ? left(text) : text));
  }
  function nextSample(by) {
    const count = samples().length;
    if (!count) return;
    state.sample = (state.sample + by + count) % count;
    drawQuestion();
    remember();
  }
  function nextQuestion(by) {
    const buttons = all("#list button");
    const button = buttons[Math.min(buttons.length - 1, Math.max(0, buttons.indexOf(document.activeElement) + by))];
    if (!button) return;
    rove(button);
    button.focus();
  }

  // ── the address says where one is, so that a place can be sent ──
  function remember() {
    const values = {
      task: state.task,
      point: DATA.points[state.point].name,
      question: state.question?.id ?? "",
      sample: state.sample + 1,
    };
    try {
      history.replaceState(null, "", "#" + new URLSearchParams(values));
    } catch {
      /* some viewers forbid it */
    }
  }
  function recall() {
    const values = new URLSearchParams(location.hash.slice(1));
    if (TASKS.includes(values.get("task"))) state.task = values.get("task");
    const point = DATA.points.findIndex((p) => p.name === values.get("point"));
    const middle = DATA.metrics
      .filter((m) => m.task === state.task)
      .map((m) => DATA.points.findIndex((p) => p.name === m.point));
    state.point = point >= 0 ? point : (middle[0] ?? 0);
    state.question = DATA.questions.find((q) => q.task === state.task && q.id === values.get("question")) ?? null;
    state.sample = Math.max(0, (parseInt(values.get("sample"), 10) || 1) - 1);
  }

  // ── to take along ──
  function copy(button) {
    getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected"; // asks for no permission
  }
  function download() {
    const url = URL.createObjectURL(new Blob([DATA.csv], { type: "text/csv" }));
    make("a", { href: url, download: "curves.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function listen() {
    const slider = $("slider");
    slider.addEventListener("input", () => {
      const index = nearest(+slider.value);
      if (index !== state.point) setPoint(index, { move: false });
    });
    slider.addEventListener("change", () => {
      if (DATA.points[state.point].lam !== null) slider.value = DATA.points[state.point].lam;
    });
    slider.addEventListener("keydown", (event) => {
      const by = {
        ArrowLeft: -1,
        ArrowDown: -1,
        ArrowRight: 1,
        ArrowUp: 1,
        PageDown: -3,
        PageUp: 3,
        Home: -1e9,
        End: 1e9,
      }[event.key];
      if (by) {
        event.preventDefault();
        step(by);
      }
    });
    $("play").addEventListener("click", play);
    for (const button of all("[data-copy]")) button.addEventListener("click", () => copy(button));
    $("csv")?.addEventListener("click", download);
    for (const tab of all("[data-choose]")) tab.addEventListener("click", () => setTask(tab.dataset.choose));
    for (const figure of all(".chart[data-width]")) {
      figure.addEventListener("pointerdown", (event) => {
        drag(figure, event);
        if (event.pointerType === "mouse") figure.setPointerCapture(event.pointerId);
      });
      figure.addEventListener("pointermove", (event) => {
        if (event.buttons) drag(figure, event);
      });
    }
    for (const mark of all("tr[data-point], .chart:not([data-width]) [data-point]"))
      mark.addEventListener("click", () => {
        const index = DATA.points.findIndex((p) => p.name === mark.dataset.point);
        if (index >= 0) setPoint(index);
      });
    if (!$("search")) return;
    for (const id of ["search", "deep", "difficulty", "filter"]) $(id).addEventListener("input", search);
    $("more").addEventListener("click", () => {
      limit += 4 * PAGE;
      drawList();
    });
    $("previous").addEventListener("click", () => nextSample(-1));
    $("next").addEventListener("click", () => nextSample(1));
    $("list").addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (by) {
        event.preventDefault();
        nextQuestion(by);
      }
    });
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
      const action = {
        "/": () => $("search").focus(),
        "[": () => step(-1),
        "]": () => step(1),
        j: () => nextSample(1),
        k: () => nextSample(-1),
      }[event.key];
      if (action) {
        event.preventDefault();
        action();
      }
    });
  }

  async function start() {
    DATA = await unpack(source);
    DATA.byKey = new Map(DATA.metrics.map((m) => [m.task + "\n" + m.point, m]));
    for (const q of DATA.questions) q.haystack = (q.id + " " + q.text + " " + q.target).toLowerCase();
    recall();
    listen();
    setTask(state.task);
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  }
  start();
})();
