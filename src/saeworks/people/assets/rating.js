/* A rater's page: one latent at a time, verdict and note by keyboard, each saved before the next is shown. */
"use strict";

const NEAR = { before: 12, after: 8 };
const VERDICTS = { 1: "yes", 2: "maybe", 3: "no", y: "yes", m: "maybe" };
const byId = (id) => document.getElementById(id);

let state = null;      // what the server knows of the rater
let shown = null;      // the latent on the page
let ahead = null;      // the next one, asked for while this one is judged
let since = 0;         // when looking at it began; 0 while the page is hidden
let looked = 0;        // milliseconds it was looked at before
let busy = false;
const drafts = new Map();  // notes on latents that are not judged yet, by place

async function ask(place, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(place, { cache: "no-store", ...options });
  } catch {
    throw new Error("The program does not answer, and nothing more is saved. Start it again in the terminal and open the address that it prints.");
  }
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  let reason = `status ${response.status}`;
  try { reason = JSON.parse(text).error; } catch { /* refused without words */ }
  throw new Error(`${body === undefined ? "Not loaded" : "Not saved"}: ${reason}`);
}

function complain(error) {
  byId("error").textContent = error ? error.message : "";
  byId("error").hidden = !error;
  if (error) byId("error").scrollIntoView({ block: "nearest" });
}

/* One thing at a time: a key that is held down judges one latent, not ten. */
async function alone(work) {
  if (busy) return;
  busy = true;
  try { await work(); complain(null); } catch (error) { complain(error); } finally { busy = false; }
}

function nextOpen(from) {
  for (let step = 0; step < state.latents; step += 1) {
    const place = (from + step) % state.latents;
    if (!(place in state.judged)) return place;
  }
  return null;
}

function fetchLatent(place) {
  if (ahead && ahead.place === place) return ahead.latent;
  return ask(`latent/${place}`);
}

async function show(place) {
  if (place === null) { finish(); return; }
  const latent = await fetchLatent(place);
  ahead = null;
  shown = latent;
  draw();
  const next = nextOpen(place + 1);
  if (next !== null && next !== place) {
    ahead = { place: next, latent: ask(`latent/${next}`) };
    ahead.latent.catch(() => { ahead = null; });
  }
}

function finish() {
  shown = null;
  byId("judging").hidden = true;
  byId("done").hidden = false;
  byId("note").blur();
  progress();
}

function minutes(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return "less than a minute left";
  const whole = Math.round(seconds / 60);
  return whole < 60 ? `about ${whole} min left` : `about ${Math.floor(whole / 60)} h ${whole % 60} min left`;
}

function progress() {
  const judged = Object.keys(state.judged).length, left = state.latents - judged;
  const words = [`${judged} of ${state.latents} judged`, left ? minutes(state.seconds_left) : "all saved", state.rater];
  byId("progress").textContent = words.filter(Boolean).join(" · ");
  byId("bar").setAttribute("aria-valuemax", state.latents);
  byId("bar").setAttribute("aria-valuenow", judged);
  byId("bar").firstElementChild.style.width = `${100 * judged / state.latents}%`;
}

function tokenElement(text, activation, peak) {
  const span = document.createElement("span");
  span.textContent = text;
  if (activation > 0) {
    span.className = peak ? "on peak" : "on";
    span.style.setProperty("--heat", (0.12 + 0.75 * Math.min(1, activation)).toFixed(3));
    span.title = `${Math.round(100 * activation)}% of its largest activation`;
  }
  return span;
}

function cut() {
  const span = document.createElement("span");
  span.className = "cut";
  span.textContent = "…";
  return span;
}

function contextElement(context) {
  const item = document.createElement("li"), text = document.createElement("span"), share = document.createElement("small");
  share.textContent = `${Math.round(100 * context.activations[context.peak])}%`;
  text.className = "text";
  const first = context.peak - NEAR.before, last = context.peak + NEAR.after;
  context.tokens.forEach((token, at) => {
    const element = tokenElement(token, context.activations[at], at === context.peak);
    if (at < first || at > last) element.classList.add("far");
    if (at === first && first > 0) text.append(cut());
    text.append(element);
    if (at === last && last + 1 < context.tokens.length) text.append(cut());
  });
  item.append(share, text);
  return item;
}

function draw() {
  byId("done").hidden = true;
  byId("judging").hidden = false;
  for (const kind of ["top", "quantile"]) {
    const contexts = shown.contexts.filter((context) => context.kind === kind);
    byId(kind).replaceChildren(...contexts.map(contextElement));
    if (kind === "quantile") byId("others").hidden = !contexts.length;
  }
  for (const kind of ["promoted", "suppressed"]) {
    byId(kind).replaceChildren(...(shown[kind] ?? []).map((token) => {
      const element = document.createElement("span");
      element.textContent = token;
      return element;
    }));
  }
  byId("effects").hidden = !shown.promoted;
  byId("note").value = drafts.get(shown.place) ?? shown.note;
  byId("note").blur();
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === shown.verdict));
  }
  byId("judging").dataset.latent = shown.place;
  byId("back").disabled = shown.place === 0;
  byId("forward").disabled = shown.verdict === null && shown.place === nextOpen(0);
  byId("undo").disabled = state.last === null;
  window.scrollTo(0, 0);
  looked = 0;
  since = document.hidden ? 0 : performance.now();
  progress();
}

function seconds() {
  return (looked + (since ? performance.now() - since : 0)) / 1000;
}

async function save(verdict) {
  const note = byId("note").value.trim();
  state = await ask("answer", { latent: shown.place, verdict, note, seconds: Number(seconds().toFixed(2)) });
  shown.note = note;
  drafts.delete(shown.place);
}

/* Of a judged latent an edited note is saved; of another it waits for the verdict. */
async function keepNote() {
  if (!shown) return;
  if (shown.verdict === null) drafts.set(shown.place, byId("note").value);
  else if (byId("note").value.trim() !== shown.note) await save(shown.verdict);
}

const judge = (verdict) => alone(async () => {
  if (!shown) return;
  const again = shown.verdict !== null;
  await save(verdict);
  await show(again && shown.place + 1 < state.latents && (shown.place + 1 in state.judged) ? shown.place + 1 : nextOpen(shown.place + 1));
});

const back = () => alone(async () => {
  await keepNote();
  if (!shown) await show(state.latents - 1);
  else if (shown.place > 0) await show(shown.place - 1);
});

const forward = () => alone(async () => {
  if (!shown || (shown.verdict === null && shown.place === nextOpen(0))) return;
  await keepNote();
  await show(shown.place + 1 in state.judged ? shown.place + 1 : nextOpen(shown.place + 1));
});

const undo = () => alone(async () => {
  if (state.last === null) return;
  await keepNote();
  const place = state.last, { note } = await ask(`latent/${place}`);
  state = await ask("answer", { latent: place, verdict: null });
  drafts.set(place, note);
  ahead = null;
  await show(place);
});

function toggleWhole() {
  const whole = document.body.classList.toggle("whole");
  byId("whole").setAttribute("aria-pressed", String(whole));
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target === byId("note")) {
    if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); byId("note").blur(); alone(keepNote); }
    return;
  }
  const key = event.key.toLowerCase();
  const actions = { arrowleft: back, arrowright: forward, u: undo, e: toggleWhole, n: () => byId("note").focus() };
  if (key in VERDICTS) { event.preventDefault(); judge(VERDICTS[key]); }
  else if (key in actions) { event.preventDefault(); actions[key](); }
}

document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  if (document.hidden && since) { looked += performance.now() - since; since = 0; }
  else if (!document.hidden) since = performance.now();
});
byId("verdicts").addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => judge(button.dataset.verdict));
}
for (const [id, action] of Object.entries({ back, forward, undo, whole: toggleWhole })) {
  byId(id).addEventListener("click", (event) => { event.currentTarget.blur(); action(); });
}

alone(async () => { state = await ask("state"); await show(nextOpen(0)); });
