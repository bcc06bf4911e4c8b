/* The browser of latents: their list, search, filters. The address holds all of its state:
   #SUITE/SITE/LATENT?find=TEXT&in=…, of fields that are not at their defaults. */
/* global saeworks */
"use strict";

(function () {
  const section = document.getElementById("latents");
  if (!section) return;
  const { make, percent } = saeworks;
  const form = section.querySelector("form");
  const list = section.querySelector("ol");
  const more = section.querySelector(".more");
  const whole = section.querySelector(".whole");
  const page = section.querySelector("article");
  const value = document.getElementById("value");
  const PART = 200; // of the list, at a time
  const KEPT = 8; // files of latents in memory
  const WAIT = 250; // ms without a key before contexts are searched
  const TELL = 400; // ms between two states of a list that grows
  const FIELDS = { sort: "frequent", find: "", in: "any", from: "", to: "", expert: "", f1: "", score: "", verdict: "", steered: "" };
  const FILTERS = Object.keys(FIELDS).filter((name) => !["find", "in", "sort"].includes(name));
  const LEXICONS = ["peaks", "promoted", "concepts", "verdicts"];
  const NUMBERS = ["id", "frequency", "max", "expert", "f1", "score"];
  const UNKNOWN = -1;

  /* The site that is shown. latents: how many, of which the first `read` are known; a typed
     array for each of NUMBERS, lists of texts; lexicons: name → chunks [start, words, rows]. */
  let shown = nothing(-1, -1);
  let listed = []; // places of latents that the list holds or would hold
  let chosen = null; // number of the latent whose page is shown
  const first = saeworks.data.files.map((name) => /^latents-(\d+)-(\d+)$/.exec(name)).find(Boolean).slice(1).map(Number);
  let opened = 0, asked = 0, sought = 0; // turns: of sites, latents, searches
  const files = new Map(); // of the site that is shown, the last used behind

  function nothing(suite, site) {
    return filled({ suite, site, latents: 0, shard: 1, chunk: 1, experts: 0, choice: null });
  }

  function filled(head) {
    const columns = Object.fromEntries(NUMBERS.map((key) => [key, new Float64Array(head.latents).fill(UNKNOWN)]));
    const lexicons = Object.fromEntries(LEXICONS.map((key) => [key, []]));
    return Object.assign({ read: 0, places: new Map(), snippet: [], concept: [], explanation: [], steered: new Set(), lexicons, known: new Set() }, head, columns);
  }

  /* A chunk of the index, behind those that are there. */
  function take(part) {
    const start = shown.read;
    for (const key of NUMBERS) if (part[key]) part[key].forEach((number, i) => { if (number !== null) shown[key][start + i] = number; });
    for (const key of ["snippet", "concept", "explanation"]) if (part[key]) part[key].forEach((text, i) => { if (text) shown[key][start + i] = text; });
    for (const key of LEXICONS) if (part[key]) shown.lexicons[key].push([start, ...part[key]]);
    (part.steered || []).forEach((is, i) => { if (is) shown.steered.add(start + i); });
    part.id.forEach((id, i) => shown.places.set(id, start + i));
    Object.keys(part).forEach((key) => shown.known.add(key));
    shown.read = start + part.id.length;
  }

  function field(name) {
    const element = form.elements[name];
    return element.type === "checkbox" ? (element.checked ? "1" : "") : element.value;
  }

  function setField(name, text) {
    const element = form.elements[name];
    if (element.type === "checkbox") element.checked = text === "1";
    else element.value = text;
  }

  function address(id, fields) {
    const kept = new URLSearchParams();
    for (const [name, usual] of Object.entries(FIELDS)) {
      const text = fields ? fields[name] || usual : field(name);
      if (text !== usual) kept.set(name, text);
    }
    const query = kept.toString();
    return "#" + shown.suite + "/" + shown.site + "/" + id + (query ? "?" + query : "");
  }

  /* The address follows what is shown, without a step for the browser's way back. */
  function keepAddress() {
    if (chosen !== null) history.replaceState(null, "", address(chosen));
  }

  function many(count) {
    return count.toLocaleString("en");
  }

  function partName() {
    return "latents-" + shown.suite + "-" + shown.site;
  }

  /* One file of latents, by its number. */
  function file(number) {
    const kept = files.get(number) || saeworks.loadPart(partName(), number);
    files.delete(number);
    files.set(number, kept);
    if (files.size > KEPT) files.delete(files.keys().next().value);
    return kept;
  }

  function text() {
    return field("find").trim().toLowerCase();
  }

  /* Marks the latents of every word that fits. */
  function markWords(mask, key, fits) {
    for (const [start, words, rows] of shown.lexicons[key]) {
      words.forEach((word, i) => { if (fits(word)) for (const row of rows[i]) mask[start + row] = 1; });
    }
  }

  /* 1 for each latent that the text finds by its number, a word or an explanation. */
  function searched(wanted, where) {
    const mask = new Uint8Array(shown.latents);
    const own = shown.places.get(Number(wanted));
    if (own !== undefined && String(shown.id[own]) === wanted) mask[own] = 1;
    const any = where === "any";
    if (any || where === "peaks") markWords(mask, "peaks", (word) => word === wanted);
    if (where === "promoted") markWords(mask, "promoted", (word) => word === wanted);
    if (any || where === "concepts") markWords(mask, "concepts", (word) => word.includes(wanted));
    if (any || where === "explanation") shown.explanation.forEach((told, at) => { if (told.toLowerCase().includes(wanted)) mask[at] = 1; });
    return mask;
  }

  function atLeast(name, column, scale) {
    const least = field(name);
    return least === "" || !Number.isFinite(Number(least)) ? null : (at) => shown[column][at] >= Number(least) / scale;
  }

  /* Conditions on a latent's place, of the filters that are set. */
  function filters() {
    const set = [atLeast("from", "frequency", 100), atLeast("f1", "f1", 1), atLeast("score", "score", 1)];
    const most = field("to"), expert = field("expert"), verdict = field("verdict");
    if (most !== "") set.push((at) => shown.frequency[at] <= Number(most) / 100);
    if (expert !== "") set.push((at) => shown.expert[at] === Number(expert));
    if (field("steered")) set.push((at) => shown.steered.has(at));
    if (verdict !== "") {
      const mask = new Uint8Array(shown.latents);
      markWords(mask, "verdicts", (word) => word === verdict);
      set.push((at) => mask[at] === 1);
    }
    return set.filter(Boolean);
  }

  /* Places of the latents that pass the filters, and that the mask has if there is one. */
  function kept(mask) {
    const conditions = filters();
    const places = [];
    for (let at = 0; at < shown.read; at += 1) {
      if ((!mask || mask[at]) && conditions.every((holds) => holds(at))) places.push(at);
    }
    section.querySelector(".active").textContent = conditions.length ? "(" + conditions.length + ")" : "";
    return places;
  }

  function sorted(places) {
    const [column, sign] = { frequent: ["frequency", -1], rare: ["frequency", 1], max: ["max", -1], f1: ["f1", -1], score: ["score", -1], id: ["id", 1] }[field("sort")] || ["id", 1];
    const keys = shown[column];
    return places.sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
  }

  function say(read) {
    const of = listed.length === shown.latents ? many(listed.length) + " latents" : many(listed.length) + " of " + many(shown.latents) + " latents";
    section.querySelector(".listed").textContent = of + (read < shown.latents ? ", " + many(read) + " searched" : "");
    whole.hidden = field("in") === "contexts" || !text();
  }

  /* What the list is sorted by, of one latent. */
  function key(at) {
    const sort = field("sort");
    if (!["max", "f1", "score"].includes(sort)) return percent(shown.frequency[at]);
    const number = shown[sort][at] === UNKNOWN ? "–" : saeworks.number(shown[sort][at]);
    return (sort === "f1" ? "F1 " : "") + number;
  }

  function row(at) {
    const id = shown.id[at];
    const texts = [shown.explanation[at], shown.concept[at]];
    const told = field("sort") === "f1" || field("in") === "concepts" ? texts[1] || texts[0] : texts[0] || texts[1];
    const link = make("a", "", make("b", "", String(id)), make("small", "", key(at)), make("span", "snippet", shown.snippet[at] || "never active here"));
    if (told) link.append(make("span", "means", told));
    link.href = address(id);
    link.dataset.id = id;
    return make("li", "", link);
  }

  function showPart() {
    const next = listed.slice(list.childElementCount, list.childElementCount + PART);
    list.append(...next.map(row));
    const left = listed.length - list.childElementCount;
    more.hidden = left <= 0;
    more.textContent = "Show " + many(Math.min(PART, left)) + " more";
    mark();
  }

  function showList(places, read) {
    listed = sorted(places);
    list.replaceChildren();
    list.scrollTop = 0;
    say(read);
    showPart();
  }

  /* Every context of the latents that pass the filters, file by file; what holds the text is
     listed meanwhile. */
  async function byContext(turn) {
    const wanted = text();
    const places = [];
    const candidates = kept(null);
    let told = performance.now();
    for (let i = 0; i < candidates.length;) {
      const number = Math.floor(candidates[i] / shown.shard);
      const part = await saeworks.loadPart(partName(), number);
      if (turn !== sought) return;
      for (; i < candidates.length && Math.floor(candidates[i] / shown.shard) === number; i += 1) {
        const at = candidates[i];
        const holds = part[at % shown.shard].contexts.some((context) => context.tokens.join("").toLowerCase().includes(wanted));
        if (holds || String(shown.id[at]) === wanted) places.push(at);
      }
      if (performance.now() - told > TELL) {
        showList(places.slice(), i < candidates.length ? candidates[i] : shown.latents);
        told = performance.now();
      }
    }
    showList(places, shown.read);
  }

  /* The list of what is looked for. */
  async function search(wait) {
    const turn = ++sought;
    if (!text()) return showList(kept(null), shown.read);
    if (field("in") !== "contexts") return showList(kept(searched(text(), field("in"))), shown.read);
    if (wait) await new Promise((done) => setTimeout(done, WAIT));
    if (turn === sought) await byContext(turn).catch(tellMissing);
  }

  function mark() {
    for (const link of list.querySelectorAll("a")) {
      if (Number(link.dataset.id) === chosen) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  function clear(...children) {
    page.querySelectorAll(".plot").forEach(saeworks.forget);
    page.replaceChildren(...children);
  }

  function tellMissing(error) {
    clear(make("p", "lead", error.message + ": copy the report's whole folder, or write it again with `saeworks report`."));
  }

  function here(id) {
    return shown.places.has(id);
  }

  async function showLatent() {
    const turn = ++asked;
    const at = shown.places.get(chosen);
    if (at === undefined) {
      clear(make("p", "lead", shown.latents ? "Latent " + chosen + " is not among those kept for this report." : "No latents were kept for this site."));
      return;
    }
    const details = (await file(Math.floor(at / shown.shard)))[at % shown.shard];
    if (turn !== asked) return; // something else was chosen meanwhile
    const { suites, sites } = saeworks.data;
    const where = sites[shown.site] + (suites.length > 1 ? ", " + suites[shown.suite] : "");
    const latent = { id: shown.id[at], frequency: shown.frequency[at], max: shown.max[at], expert: shown.expert[at] === UNKNOWN ? null : shown.expert[at] };
    clear();
    saeworks.latentPage(page, latent, details, {
      where, suite: shown.suite, choice: shown.choice,
      latent: (id) => (here(id) ? address(id) : null),
      find: (word, place) => address(chosen, { find: word, in: place })
    });
    mark();
  }

  /* Of how many latents these are, how they were chosen, and what would keep more. */
  function choice() {
    const { choice: how, latents } = shown;
    if (!how) return [many(latents) + " latents of this SAE were kept."];
    const live = many(how.live) + " fire on the held-out tokens";
    if (latents >= how.live) return ["Of the " + many(how.width) + " latents of this SAE " + live + ": all of these are here."];
    return [many(latents) + " of the " + many(how.width) + " latents of this SAE, chosen so: " + how.how + ". " + live + "; with ", make("code", "", "saeworks eval --latents " + how.live), " all of these are here."];
  }

  /* Fields for what this site's latents have; what is asked for by the address stays. */
  function fit() {
    const has = (key) => shown.known.has(key);
    for (const element of form.querySelectorAll("[data-needs]")) element.hidden = !has(element.dataset.needs);
    const words = new Set(shown.lexicons.verdicts.flatMap(([, kinds]) => kinds));
    offer("expert", Array.from({ length: shown.experts }, (_, i) => String(i)));
    offer("verdict", [...words]);
  }

  function offer(name, values) {
    const select = form.elements[name];
    const before = select.value;
    if (select.options.length !== values.length + 1) select.replaceChildren(new Option("any", ""), ...values.map((text) => new Option(text, text)));
    select.value = values.includes(before) ? before : "";
  }

  /* A site's index, chunk by chunk; what is known is listed meanwhile. */
  async function openSite(suite, site, turn, ready) {
    const head = await saeworks.load("latents-" + suite + "-" + site);
    if (turn !== opened) return; // files come in any order
    shown = head ? filled(Object.assign({ suite, site }, head)) : nothing(suite, site);
    files.clear();
    section.querySelector(".chosen").replaceChildren(...choice());
    if (form.elements.suite) form.elements.suite.value = suite;
    form.elements.site.value = site;
    let told = performance.now();
    for (let chunk = 0; chunk * shown.chunk < shown.latents; chunk += 1) {
      const part = await saeworks.loadPart(partName() + "-index", chunk);
      if (turn !== opened) return;
      take(part);
      if (chunk && shown.read < shown.latents && performance.now() - told < TELL) continue;
      fit();
      applyAddress();
      await (field("in") === "contexts" && shown.read < shown.latents ? null : search(false));
      told = performance.now();
      if (turn !== opened) return;
      await ready();
    }
    if (!shown.latents) {
      fit();
      await search(false);
      await ready();
    }
  }

  /* Fields of the address, once the site that offers them is read. */
  let wanted = null;
  function applyAddress() {
    if (!wanted) return;
    for (const name of ["expert", "verdict"]) if (wanted[name] !== undefined) setField(name, wanted[name]);
    if (shown.read >= shown.latents) wanted = null;
  }

  async function open(suite, site, id) {
    if (suite === shown.suite && site === shown.site) return choose(id);
    const turn = ++opened;
    asked += 1;
    chosen = null;
    await openSite(suite, site, turn, async function () {
      if (chosen !== null && here(chosen)) return mark();
      if (id !== null && !here(id) && shown.read < shown.latents) return null;
      return choose(id);
    });
  }

  /* Shows a latent: the first of the list if none is named. */
  async function choose(id) {
    chosen = id !== null ? id : listed.length ? shown.id[listed[0]] : shown.latents ? shown.id[0] : -1;
    mark();
    await showLatent();
  }

  function follow() {
    const parts = /^#(?:(\d+)\/(\d+)\/(\d+))?(?:\?(.*))?$/.exec(location.hash);
    if (!parts) return;
    const query = new URLSearchParams(parts[4] || "");
    let changed = false;
    wanted = {};
    for (const [name, usual] of Object.entries(FIELDS)) {
      wanted[name] = query.get(name) || usual;
      if (field(name) === wanted[name]) continue;
      changed = true;
      setField(name, wanted[name]);
    }
    for (const name of ["sort", "in"]) if (!field(name)) setField(name, FIELDS[name]);
    const [suite, site, id] = parts[1] ? parts.slice(1, 4).map(Number) : [...first, null];
    if (FILTERS.some((name) => wanted[name])) section.querySelector(".filters").open = true;
    if (suite === shown.suite && site === shown.site) {
      wanted = null;
      if (changed) search(false);
    }
    open(suite, site, id).catch(tellMissing);
    const box = page.getBoundingClientRect();
    if (box.top > window.innerHeight * 0.8 || box.top < 0) page.scrollIntoView({ block: "start" });
  }

  async function another() {
    await open(form.elements.suite ? Number(form.elements.suite.value) : 0, Number(form.elements.site.value), null);
    keepAddress();
  }

  /* The latent that is so many places further down in the list. */
  function step(by) {
    const at = listed.indexOf(shown.places.get(chosen));
    const next = at < 0 ? 0 : at + by;
    if (!(next >= 0 && next < listed.length)) return;
    while (list.childElementCount <= next) showPart();
    const inList = list.contains(document.activeElement);
    choose(shown.id[listed[next]]).catch(tellMissing);
    keepAddress();
    const link = list.children[next].firstElementChild;
    link.scrollIntoView({ block: "nearest" });
    if (inList) link.focus();
  }

  function press(event) {
    const over = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || over.closest("input, select, textarea")) return;
    const by = { j: 1, k: -1 }[event.key] || (list.contains(over) && { ArrowDown: 1, ArrowUp: -1 }[event.key]);
    if (!by) return;
    step(by);
    event.preventDefault();
  }

  function tell(event) {
    const over = event.target.closest ? event.target.closest("[data-value]") : null;
    value.hidden = !over;
    if (!over) return;
    value.textContent = over.dataset.value;
    const box = over.getBoundingClientRect();
    const left = Math.min(Math.max(4, event.clientX - 20), window.innerWidth - value.offsetWidth - 4);
    value.style.left = left + "px";
    value.style.top = (box.top - 28 < 4 ? box.bottom + 4 : Math.max(4, event.clientY - 40)) + "px";
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", function (event) {
    const name = event.target.name;
    if (name === "site" || name === "suite") return;
    search(name === "find");
    keepAddress();
  });
  for (const name of ["suite", "site"]) if (form.elements[name]) form.elements[name].addEventListener("change", () => another().catch(tellMissing));
  form.querySelector(".clear").addEventListener("click", function () {
    for (const name of FILTERS) setField(name, "");
    search(false);
    keepAddress();
  });
  more.addEventListener("click", showPart);
  whole.addEventListener("click", function () {
    setField("in", "contexts");
    search(false);
    keepAddress();
    form.elements.find.focus();
  });
  document.addEventListener("keydown", press);
  page.addEventListener("pointerover", tell);
  page.addEventListener("click", tell);
  page.addEventListener("pointerleave", () => { value.hidden = true; });
  window.addEventListener("scroll", () => { value.hidden = true; }, { passive: true });
  window.addEventListener("hashchange", follow);
  if (location.hash.length > 1) follow();
  else open(...first, null).catch(tellMissing);
})();
