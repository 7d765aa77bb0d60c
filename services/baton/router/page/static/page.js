// The page at the router: shows what the feed tells, and asks the model through the same door as every client.
// `Feed` hears, the `show…` functions draw, `Playground` asks. Nothing here decides anything.

const KEPT_ROWS = 100;
const KEPT_POINTS = 300;
const LOST_SHOWN_MS = 6000;
const SHORTEST_MS = 30; // an answer that came all at once has no rate
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const AGAIN_MS = 2000;
const KEY_NAME = "baton-key";
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...inside) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in found && key !== "class") found[key] = value;
    else found.setAttribute(key, value);
  }
  found.append(...inside);
  return found;
}

function draw(name, attributes = {}) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  return found;
}

const whole = (value) => Math.round(value).toLocaleString("en");
const ms = (value) => (value === null || value === undefined ? "–" : value < 10 ? value.toFixed(1) : whole(value));
const clock = (agoS) => new Date(Date.now() - 1000 * (agoS || 0)).toLocaleTimeString([], { hour12: false });
const share = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);

// ---- pods ----

const pods = new Map(); // id → { card, told, goneAt }

function showPods(list) {
  const present = new Set(list.map((pod) => pod.id));
  const news = [];
  for (const pod of list) {
    let known = pods.get(pod.id);
    if (!known) {
      known = { card: podCard(pod), goneAt: 0 };
      pods.set(pod.id, known);
      if (loaded) news.push(`${pod.id} has joined`);
    } else if (known.goneAt || known.told.incarnation !== pod.incarnation) {
      news.push(`${pod.id} is back`);
    }
    if (known.told && known.told.role !== pod.role) place(known.card, pod.role);
    known.told = pod;
    known.goneAt = 0;
    fillCard(known.card, pod, pod.state);
  }
  for (const [id, known] of pods) {
    if (present.has(id)) continue;
    if (!known.goneAt) {
      known.goneAt = Date.now();
      news.push(`${id} has gone`);
      fillCard(known.card, known.told, "lost");
    } else if (Date.now() - known.goneAt > LOST_SHOWN_MS) {
      known.card.remove();
      pods.delete(id);
    }
  }
  loaded = true;
  byId("fleet-empty").hidden = pods.size > 0;
  if (news.length) byId("fleet-news").textContent = news.join(", ");
  drawWires();
}
let loaded = false;

function podCard(pod) {
  const card = make(
    "li",
    { class: "pod", id: `pod-${pod.id}` },
    make("span", { class: "state" }),
    make("span", { class: "name" }, pod.id),
    make("div", { class: "load" }),
    make("div", { class: "bar" }, make("span", { class: "used" }), make("span", { class: "cached" })),
  );
  place(card, pod.role);
  return card;
}

function place(card, role) {
  const lane = byId(role === "prefill" ? "prefill" : "decode");
  const after = [...lane.children].find((other) => other.id.localeCompare(card.id, "en", { numeric: true }) > 0);
  lane.insertBefore(card, after || null);
}

function fillCard(card, pod, state) {
  card.dataset.role = pod.role;
  card.dataset.state = state;
  const used = Math.max(0, pod.pages - pod.pages_free - pod.pages_evictable);
  const of = (count) => (pod.pages ? (100 * count) / pod.pages : 0);
  const speed = pod.role === "prefill"
    ? pod.prefill_tokens_per_s && `${whole(pod.prefill_tokens_per_s)} tokens/s`
    : pod.decode_step_ms && `${ms(pod.decode_step_ms)} ms a step`;
  const where = [pod.node, pod.zone].filter(Boolean).join(", ");
  const parts = [`${pod.running + pod.prefilling} running, ${pod.waiting} waiting`, speed, where];
  card.querySelector(".state").textContent = state === "ready" && pod.role === "unified" ? "unified" : state;
  card.querySelector(".load").textContent = parts.filter(Boolean).join(" · ");
  const bar = card.querySelector(".bar");
  bar.title = `${whole(pod.pages)} pages: ${whole(used)} used, ${whole(pod.pages_evictable)} cached`;
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", bar.title);
  bar.querySelector(".used").style.width = `${of(used)}%`;
  bar.querySelector(".cached").style.width = `${of(pod.pages_evictable)}%`;
}

function wirePath(from, to) {
  const stage = byId("stage").getBoundingClientRect();
  const a = from.getBoundingClientRect();
  const b = to.getBoundingClientRect();
  const [x1, y1] = [a.right - stage.left, a.top + a.height / 2 - stage.top];
  const [x2, y2] = [b.left - stage.left, b.top + b.height / 2 - stage.top];
  const bend = (x2 - x1) / 2;
  return `M ${x1} ${y1} C ${x1 + bend} ${y1}, ${x2 - bend} ${y2}, ${x2} ${y2}`;
}

function drawWires() {
  const wires = byId("wires");
  const wanted = new Map();
  const alive = [...pods.values()].filter((one) => !one.goneAt);
  for (const from of alive) {
    if (from.told.role !== "prefill") continue;
    for (const to of alive) if (to.told.role === "decode") wanted.set(`${from.told.id}→${to.told.id}`, wirePath(from.card, to.card));
  }
  for (const path of wires.querySelectorAll("path")) if (!wanted.has(path.dataset.wire)) path.remove();
  for (const [name, d] of wanted) {
    let path = wires.querySelector(`path[data-wire="${CSS.escape(name)}"]`);
    if (!path) {
      path = draw("path");
      path.dataset.wire = name;
      wires.prepend(path);
    }
    path.setAttribute("d", d);
  }
}
addEventListener("resize", drawWires);

// ---- hand-overs ----

function showHandoff(told, moving = true) {
  const row = make("tr", {}, ...[
    clock(told.ago_s), told.from, told.to, whole(told.tokens), (told.bytes / 1e6).toFixed(1), ms(told.ms),
  ].map((text) => make("td", {}, text)));
  row.dataset.request = told.id || "";
  first(byId("handoff-rows"), row);
  if (moving) pass(told);
}

function pass(told) {
  const from = pods.get(told.from)?.card;
  const to = pods.get(told.to)?.card;
  if (!from || !to || document.hidden) return;
  const wires = byId("wires");
  const path = draw("path", { d: wirePath(from, to), class: "lit" });
  const label = draw("text");
  label.textContent = `${whole(told.tokens)} tokens, ${ms(told.ms)} ms`;
  const dot = draw("circle", { r: 6 });
  wires.append(path, label, dot);
  const length = path.getTotalLength();
  const middle = path.getPointAtLength(length / 2);
  label.setAttribute("x", middle.x);
  label.setAttribute("y", middle.y - 8);
  const began = performance.now();
  const lasts = CALM.matches ? 0 : 700;
  const step = (now) => {
    const done = lasts ? Math.min(1, (now - began) / lasts) : 1;
    const point = path.getPointAtLength(length * done);
    dot.setAttribute("cx", point.x);
    dot.setAttribute("cy", point.y);
    if (done < 1) requestAnimationFrame(step);
    else setTimeout(() => [path, label, dot].forEach((one) => one.remove()), 900);
  };
  requestAnimationFrame(step);
}

function first(body, row) {
  body.prepend(row);
  while (body.children.length > KEPT_ROWS) body.lastElementChild.remove();
}

// ---- placements ----

function showPlacement(told) {
  const why = told.candidates?.length
    ? make("details", {}, make("summary", {}, told.why), make("ol", {}, ...told.candidates.map((text) => make("li", {}, text))))
    : told.why;
  const row = make("tr", {}, ...[
    clock(told.ago_s), `${whole(told.prompt_tokens)} tokens`, whole(told.cached_tokens),
    told.prefill || (told.decode ? "on the decode pod" : "–"), told.decode || "–",
  ].map((text) => make("td", {}, text)), make("td", { class: "first" }), make("td", {}, why));
  row.dataset.request = told.id;
  row.dataset.expected = ms(told.predicted_ms);
  row.querySelector(".first").textContent = `${ms(told.predicted_ms)} / ${ms(told.ttft_ms)}`;
  first(byId("placement-rows"), row);
}

function showEnded(told) {
  const row = byId("placement-rows").querySelector(`tr[data-request="${CSS.escape(told.id)}"]`);
  if (row) row.querySelector(".first").textContent = `${row.dataset.expected} / ${ms(told.ttft_ms)}`;
}

// ---- figures over time ----

const charts = [
  { title: "Time to the first token", unit: "ms", half: "ttft_p50", most: "ttft_p99" },
  { title: "Between two tokens", unit: "ms", half: "itl_p50", most: "itl_p99" },
  { title: "Prompt tokens from cache", unit: "%", half: "hit" },
  { title: "Tokens a second", unit: "", half: "tokens_s" },
];
const points = [];

function layCharts() {
  for (const chart of charts) {
    chart.value = make("span", { class: "value" });
    chart.svg = draw("svg", { class: "chart", viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" });
    chart.lines = ["half", ...(chart.most ? ["most"] : [])].map((name) => {
      const line = draw("polyline", { class: name });
      chart.svg.append(line);
      return [chart[name], line];
    });
    byId("charts").append(make("figure", {}, make("figcaption", {}, make("span", {}, chart.title), chart.value), chart.svg));
  }
}

function showPoints() {
  for (const chart of charts) {
    const every = points.flatMap((point) => chart.lines.map(([name]) => point[name])).filter((value) => value != null);
    const top = Math.max(...every, chart.unit === "%" ? 1 : 0) || 1;
    for (const [name, line] of chart.lines) {
      const offset = KEPT_POINTS - points.length;
      line.setAttribute("points", points
        .map((point, place) => point[name] == null ? "" : `${offset + place},${98 - (95 * point[name]) / top}`)
        .filter(Boolean).join(" "));
    }
    chart.value.textContent = sayChart(chart);
    chart.svg.setAttribute("aria-label", `${chart.title}: ${chart.value.textContent}`);
  }
}

function sayChart(chart) {
  const last = points.findLast((point) => point[chart.half] != null);
  if (!last) return "nothing yet";
  if (chart.unit === "%") return share(last[chart.half]);
  if (!chart.most) return whole(last[chart.half]);
  return `median ${ms(last[chart.half])} ms, 99 of 100 within ${ms(last[chart.most])} ms`;
}

// ---- the feed ----

function showSnapshot(told) {
  const { router, point } = told;
  byId("model").dataset.name = router.model || "";
  byId("model").textContent = [router.model, router.policy && `placed by ${router.policy}`, router.problem].filter(Boolean).join(" · ");
  byId("total-requests").textContent = point.requests_s == null ? "–" : point.requests_s.toFixed(1);
  byId("total-tokens").textContent = point.tokens_s == null ? "–" : whole(point.tokens_s);
  byId("total-hit").textContent = share(point.hit);
  byId("total-running").textContent = whole(router.running);
  byId("total-queued").textContent = whole(router.queued);
  showPods(told.pods);
  points.push(point);
  points.splice(0, points.length - KEPT_POINTS);
  showPoints();
}

const HEARD = {
  hello: (told) => {
    points.splice(0, points.length, ...told.points);
    byId("handoff-rows").replaceChildren();
    byId("placement-rows").replaceChildren();
    told.placements.forEach(showPlacement);
    told.handoffs.forEach((one) => showHandoff(one, false));
  },
  snapshot: showSnapshot,
  placement: showPlacement,
  handoff: (told) => showHandoff(told),
  ended: showEnded,
};
let hearing = null;

// Over fetch, since an EventSource cannot send a key.
async function listen() {
  hearing?.abort();
  const mine = (hearing = new AbortController());
  while (!mine.signal.aborted) {
    try {
      const answer = await fetch("feed", { headers: keyed({}), signal: mine.signal, cache: "no-store" });
      if (answer.status === 401 || answer.status === 403) {
        sayLink("closed", keyHeld() ? "this key is no operator's" : "an operator's key is needed");
        askForKey();
        return;
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      for await (const { name, data } of eventsOf(answer)) {
        HEARD[name]?.(JSON.parse(data));
        sayLink("live", "live");
      }
    } catch (error) {
      if (mine.signal.aborted) return;
    }
    sayLink("lost", "the router does not answer; trying again");
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
}

function sayLink(state, text) {
  const link = byId("link");
  if (link.textContent === text) return;
  link.dataset.state = state;
  link.textContent = text;
}

async function* eventsOf(answer) {
  let rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const lines = event.split("\n");
      const field = (begin) => lines.filter((line) => line.startsWith(begin)).map((line) => line.slice(begin.length)).join("\n");
      const data = field("data: ");
      if (data) yield { name: field("event: "), data };
    }
  }
}

// ---- the key: kept for this tab alone ----

const keyHeld = () => byId("key").value.trim();

function keyed(headers) {
  return keyHeld() ? { ...headers, authorization: `Bearer ${keyHeld()}` } : headers;
}

function askForKey() {
  byId("key-label").hidden = false;
}

function takeKey() {
  sessionStorage.setItem(KEY_NAME, keyHeld());
  listen();
}

// ---- the playground ----

const history = [];
let asking = null;

async function ask(text) {
  speak("you", text);
  const said = speak("model", "");
  const body = said.querySelector(".text");
  const began = performance.now();
  const seen = { first: 0, usage: null, timeline: null, headers: null };
  asking = new AbortController();
  busy(true);
  let answer = "";
  try {
    for await (const event of stream([...history, { role: "user", content: text }], seen)) {
      const { content, reasoning_content: thought } = event.choices?.[0]?.delta || {};
      if ((content || thought) && !seen.first) seen.first = performance.now();
      if (thought) thoughtBefore(body).textContent += thought;
      answer += content || "";
      body.textContent = answer;
      byId("talk").scrollTop = byId("talk").scrollHeight;
    }
    history.push({ role: "user", content: text }, { role: "assistant", content: answer });
    said.append(pathOf(seen, began));
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (stopped && answer) history.push({ role: "user", content: text }, { role: "assistant", content: answer });
    if (!stopped) said.classList.add("failed");
    body.textContent = answer + (answer ? "\n" : "") + (stopped ? "(stopped)" : error.message);
  } finally {
    asking = null;
    busy(false);
    byId("talk").scrollTop = byId("talk").scrollHeight;
  }
}

function thoughtBefore(body) {
  const found = body.parentElement.querySelector(".thought");
  if (!found) body.before(make("span", { class: "thought" }));
  return found || body.previousElementSibling;
}

async function* stream(messages, seen) {
  const headers = keyed({ "content-type": "application/json", "x-baton-explain": "true", "x-baton-timeline": "true" });
  const answer = await fetch("../v1/chat/completions", {
    method: "POST", headers, signal: asking.signal,
    body: JSON.stringify({
      model: byId("model").dataset.name || "", messages, stream: true, stream_options: { include_usage: true },
      temperature: Number(byId("temperature").value), max_tokens: Number(byId("longest").value),
    }),
  });
  if (answer.status === 401) {
    askForKey();
    byId("key").focus();
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message || `HTTP ${answer.status}`);
  seen.headers = answer.headers;
  for await (const { data } of eventsOf(answer)) {
    if (data === "[DONE]") return;
    const told = JSON.parse(data);
    if (told.error) throw new Error(told.error.message);
    if (told.usage) seen.usage = told.usage;
    if (told.baton) seen.timeline = told.baton;
    yield told;
  }
  throw new Error("the answer ended before its end was said");
}

function pathOf(seen, began) {
  const usage = seen.usage || {};
  const cached = usage.prompt_tokens_details?.cached_tokens;
  const line = make("span", { class: "path" });
  const served = servedBy(seen);
  if (served) line.append(make("b", {}, served), " · ");
  const spent = performance.now() - seen.first;
  const rate = usage.completion_tokens > 1 && spent > SHORTEST_MS ? `${whole((1000 * (usage.completion_tokens - 1)) / spent)} tokens/s` : "";
  const parts = [
    usage.completion_tokens != null && `${usage.completion_tokens} tokens`, rate,
    seen.first && `first after ${ms(seen.first - began)} ms`,
    cached != null && `${cached} of ${usage.prompt_tokens} prompt tokens from cache`,
  ];
  line.append(parts.filter(Boolean).join(" · "));
  return line;
}

// What pods did, where the answer tells; else where the router sent it.
function servedBy(seen) {
  const decode = seen.timeline?.pod || seen.headers.get("x-baton-decode");
  const asked = seen.headers.get("x-baton-prefill")?.split(",")[0];
  const prefill = seen.timeline ? seen.timeline.prefill : asked === "local" ? "" : asked;
  return decode && prefill && prefill !== decode ? `${prefill} → ${decode}` : decode;
}

function speak(who, text) {
  const said = make("p", { class: "said" }, make("span", { class: "who" }, who), make("span", { class: "text" }, text));
  byId("talk").append(said);
  return said;
}

function busy(yes) {
  byId("send").disabled = yes;
  byId("stop").disabled = !yes;
  byId("talk").setAttribute("aria-busy", String(yes));
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const box = byId("message");
  const text = box.value.trim();
  if (!text || asking) return;
  box.value = "";
  ask(text).then(() => box.focus());
});
byId("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => asking?.abort());
byId("reset").addEventListener("click", () => {
  asking?.abort();
  history.length = 0;
  byId("talk").replaceChildren();
  byId("message").focus();
});
byId("key").addEventListener("change", takeKey);

byId("key").value = sessionStorage.getItem(KEY_NAME) || "";
if (keyHeld()) askForKey();
layCharts();
listen();
