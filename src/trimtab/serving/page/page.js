
"use strict";
const $ = (id) => document.getElementById(id);
const MOST = 4;                    // strengths side by side
const FULL = 2;                    // nats at which a colour is as strong as it gets
let token = "", about = null, strengths = [], turns = [], running = [], asks = 0;

function make(tag, properties = {}, ...children) {
  const one = Object.assign(document.createElement(tag), properties);
  one.append(...children);
  return one;
}
const shown = (number) => String(Math.round(number * 100) / 100);
const signed = (number, digits) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(digits);

async function ask(path, body, signal) {
  const how = { headers: { Authorization: `Bearer ${token}` }, signal };
  if (body) Object.assign(how, { method: "POST", body: JSON.stringify(body) });
  if (body) how.headers["Content-Type"] = "application/json";
  const answer = await fetch(path, how);
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw Object.assign(new Error(said?.error?.message ?? `HTTP ${answer.status}`), { status: answer.status });
  }
  return answer;
}

/* ---- the token: from the link's fragment, which is never sent, kept for this tab ---- */
async function open() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname);
  token = given ?? sessionStorage.getItem("token") ?? "";
  if (token) await enter(); else showLogin("");
}
function showLogin(why) {
  $("token-form").hidden = false;
  $("token-error").hidden = !why;
  $("token-error").textContent = why;
  $("token").focus();
}
async function enter() {
  try {
    about = await (await ask("/dial")).json();
  } catch (error) {
    sessionStorage.removeItem("token");
    return showLogin(error.status === 401 ? "This token is wrong." : error.message);
  }
  sessionStorage.setItem("token", token);
  $("token-form").hidden = true;
  $("app").hidden = $("composer").hidden = false;
  start();
}

/* ---- the dials ---- */
function start() {
  const [low, high] = about.recommended;
  document.title = $("model").textContent = about.model;
  const origin = [about.method, about.base && `of ${about.base}`].filter(Boolean).join(" ");
  $("facts").textContent = [origin, `recommended strengths ${low} to ${high}`, about.engine].filter(Boolean).join(" · ");
  const inside = (...wanted) => [...new Set(wanted.map((one) => Math.min(high, Math.max(low, one))))];
  const presets = [["Original", [0]], ["Half", [0.5]], ["Aligned", [1]], ["0 and 1", [0, 1]], ["0, ½, 1", [0, 0.5, 1]]];
  if (low < 0 || high > 1) presets.push(["Whole range", [low, 0, 1, high]]);
  for (const [name, values] of presets) {
    const found = inside(...values);
    if (found.length !== values.length && values.length > 1 && name !== "Whole range") continue;
    $("presets").append(make("button", { type: "button", textContent: name, onclick: () => setStrengths(found) }));
  }
  setStrengths(inside(0, 1));
  $("prompt").focus();
}
function setStrengths(values) {
  strengths = values.slice(0, MOST);
  $("dials").replaceChildren(...strengths.map(dialOf));
  $("add").disabled = strengths.length >= MOST;
}
function dialOf(value, place) {
  const [low, high] = about.recommended;
  const output = make("output", { textContent: shown(value) });
  const range = make("input", { type: "range", min: low, max: high, step: (high - low) / 20, value });
  range.setAttribute("aria-label", `Strength ${place + 1}`);
  const say = () => range.setAttribute("aria-valuetext", `strength ${shown(strengths[place])}`);
  range.oninput = () => {
    strengths[place] = Math.round(Number(range.value) * 1e6) / 1e6;
    output.textContent = shown(strengths[place]);
    say();
  };
  say();
  const drop = make("button", { type: "button", textContent: "×", title: "Remove", disabled: strengths.length === 1 });
  drop.setAttribute("aria-label", `Remove strength ${place + 1}`);
  drop.onclick = () => { setStrengths(strengths.filter((_, other) => other !== place)); $("add").focus(); };
  return make("div", { className: "dial" }, range, output, drop);
}

/* ---- turns ---- */
function before() {
  const system = $("system").value.trim();
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    const chosen = turn.answers[turn.chosen];
    messages.push({ role: "user", content: turn.asked }, { role: "assistant", content: chosen.text });
  }
  return messages;
}
async function send() {
  const asked = $("prompt").value.trim();
  if (!asked || running.length) return;
  $("prompt").value = "";
  $("hint").hidden = true;
  const messages = [...before(), { role: "user", content: asked }];
  const turn = { asked, messages, answers: [], chosen: 0, number: ++asks };
  turn.answers = strengths.map((strength, place) => answerOf(turn, strength, place));
  turns.push(turn);
  const answers = make("div", { className: "answers" }, ...turn.answers.map((one) => one.card));
  answers.setAttribute("role", "group");
  answers.setAttribute("aria-label", `Answers of turn ${turn.number}`);
  const article = make("article", { className: "turn" }, make("p", { className: "asked", textContent: asked }), answers);
  $("turns").append(article);
  choose(turn, 0);
  article.scrollIntoView({ block: "start" });
  $("send").hidden = true;
  $("stop").hidden = false;
  say(`${strengths.length === 1 ? "One answer is" : `${strengths.length} answers are`} being written`);
  running = turn.answers.map((one) => one.control);
  await Promise.all(turn.answers.map((one) => write(one, messages)));
  running = [];
  const usable = turn.answers.filter((one) => one.text && !one.failed);
  if (!usable.length) turns = turns.filter((other) => other !== turn);   // nothing to go on from
  else if (!usable.includes(turn.answers[turn.chosen])) choose(turn, usable[0].place);
  $("send").hidden = false;
  $("stop").hidden = true;
  $("export").disabled = $("clear").disabled = !turns.length;
  const failed = turn.answers.filter((one) => one.failed).length;
  say(failed ? `${failed} of ${turn.answers.length} answers failed` : "All answers are there");
  $("prompt").focus({ preventScroll: true });
}
const say = (text) => { $("status").textContent = text; };

function answerOf(turn, strength, place) {
  const text = make("div", { className: "text waiting", tabIndex: 0 });
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `Answer at strength ${shown(strength)}; arrow keys go through its tokens`);
  const note = make("p", { className: "note muted" });
  note.setAttribute("role", "status");
  const radio = make("input", { type: "radio", name: `choice-${turn.number}`, checked: place === 0, onchange: () => choose(turn, place) });
  const head = make("div", {}, make("h3", { textContent: `strength ${shown(strength)}` }),
    make("label", { className: "choose" }, radio, "go on from this"));
  const card = make("div", { className: "answer card" }, head, text, note);
  return { strength, place, text: "", tokens: [], failed: false, card, node: text, note, radio, control: new AbortController() };
}
function choose(turn, place) {
  turn.chosen = place;
  for (const one of turn.answers) {
    one.card.classList.toggle("chosen", one.place === place && turn.answers.length > 1);
    one.radio.parentElement.hidden = turn.answers.length === 1;
    one.radio.checked = one.place === place;
  }
}
async function write(one, messages) {
  try {
    const answer = await ask("/v1/chat/completions", {
      model: about.model, messages, stream: true, strength: one.strength,
      max_completion_tokens: Number($("most").value) || 256, temperature: Number($("temperature").value) || 0,
    }, one.control.signal);
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message ?? String(event.error));
      const piece = event.choices?.[0]?.delta?.content;
      if (!piece) continue;
      one.text += piece;
      one.node.append(piece);                                    // a text node: never markup
      one.node.classList.remove("waiting");
    }
  } catch (error) {
    if (error.name !== "AbortError") { one.failed = true; fail(one, error.message); }
    else one.note.textContent = "stopped";
  }
  one.node.classList.remove("waiting");
  if (one.text && !one.failed) colour(one, messages);
}
function fail(one, message) {
  one.note.className = "note error";
  one.note.setAttribute("role", "alert");
  one.note.textContent = message;
}
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

/* ---- what the dial has changed ---- */
async function colour(one, messages) {
  try {
    const asked = { model: about.model, messages, answer: one.text, strength: one.strength };
    one.tokens = (await (await ask("/dial/changes", asked)).json()).tokens;
  } catch (error) {
    one.note.textContent = `no colours: ${error.message}`;
    return;
  }
  one.now = -1;
  one.spans = one.tokens.map((token, at) => make("span", { textContent: token.text, onclick: () => point(one, at) }));
  one.node.replaceChildren(...one.spans);
  one.node.onkeydown = (event) => walk(one, event);
  one.node.onblur = () => point(one, -1);
  paint(one);
  point(one, -1);
}
function paint(one) {
  if (!one.spans) return;
  one.spans.forEach((span, at) => {
    const { change } = one.tokens[at];
    const much = $("colours").checked ? Math.min(1, Math.abs(change) / FULL) * 0.6 : 0;
    span.style.background = much < 0.02 ? "" : `rgba(var(--${change < 0 ? "down" : "up"}), ${much.toFixed(3)})`;
  });
}
function walk(one, event) {
  const last = one.spans.length - 1;
  const to = { ArrowRight: one.now + 1, ArrowLeft: one.now - 1, Home: 0, End: last, Escape: -1 }[event.key];
  if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  point(one, event.key === "Escape" ? -1 : Math.max(0, Math.min(last, to)));
}
function point(one, at) {
  one.spans.forEach((span, other) => span.classList.toggle("now", other === at));
  one.now = at;
  if (at < 0) {
    const total = one.tokens.reduce((sum, token) => sum + token.change, 0);
    one.note.textContent = `${one.tokens.length} tokens, ${signed(total / one.tokens.length, 2)} nats each on average`;
    return;
  }
  const { text, change } = one.tokens[at];
  one.note.textContent = `“${text.trim() || text}”: ${signed(change, 2)} nats, ${Math.exp(change).toPrecision(3)} times as likely as at 0`;
}

/* ---- export ---- */
function rows() {
  return turns.flatMap((turn) => turn.answers.filter((one) => one.text && !one.failed).map((one) => ({
    messages: [...turn.messages, { role: "assistant", content: one.text }], strength: one.strength,
  })));
}
function save() {
  const text = rows().map((row) => JSON.stringify(row) + "\n").join("");
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/jsonl" })), download: "conversation.jsonl" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say(`${rows().length} rows were saved as conversation.jsonl`);
}

$("token-form").onsubmit = (event) => { event.preventDefault(); token = $("token").value.trim(); enter(); };
$("composer").onsubmit = (event) => { event.preventDefault(); send(); };
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
};
$("stop").onclick = () => { for (const control of running) control.abort(); };
$("add").onclick = () => {
  const [low, high] = about.recommended;
  setStrengths([...strengths, (low + high) / 2]);
  $("dials").lastElementChild.querySelector("input").focus();
};
$("colours").onchange = () => { for (const turn of turns) turn.answers.forEach(paint); };
$("export").onclick = save;
$("clear").onclick = () => {
  for (const control of running) control.abort();
  turns = [];
  $("turns").replaceChildren();
  $("hint").hidden = false;
  $("export").disabled = $("clear").disabled = true;
  say("");
  $("prompt").focus();
};
open();
