/* The browser of latents. The address names what is shown: #latents/SUITE/SITE/LATENT. */
"use strict";

(function () {
  const section = document.getElementById("latents");
  if (!section) return;
  const form = section.querySelector("form");
  const list = section.querySelector("ol");
  const more = section.querySelector(".more");
  const whole = section.querySelector(".whole");
  const page = section.querySelector("article");
  const value = document.getElementById("value");
  const PART = 200; // of the list, at a time
  const BEFORE = 8, AFTER = 5; // tokens of a context that is not expanded
  const KEPT = 8; // files of latents in memory
  const WAIT = 250; // ms without a key before contexts are searched
  const orders = {
    frequent: (a, b) => b.frequency - a.frequency,
    rare: (a, b) => a.frequency - b.frequency,
    max: (a, b) => b.max - a.max,
    id: (a, b) => a.id - b.id
  };
  /* latents: {id, frequency, max, snippet, words, at} of the site; places: number → its place. */
  let shown = { suite: -1, site: -1, latents: [], places: new Map(), lexicon: [], shard: 1, choice: null, id: null };
  let listed = []; // what the list holds or would hold
  let asked = 0;
  let sought = 0;
  const files = new Map(); // of the site that is shown, the last used behind

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  function address(id) {
    return "#latents/" + shown.suite + "/" + shown.site + "/" + id;
  }

  function percent(share) {
    return share === null ? "–" : saeworks.number(share * 100) + "%";
  }

  function many(count) {
    return count.toLocaleString("en");
  }

  /* One file of latents, by its number. */
  function file(number) {
    const name = "latents-" + shown.suite + "-" + shown.site;
    const found = files.get(number) || saeworks.loadPart(name, number);
    files.delete(number);
    files.set(number, found);
    if (files.size > KEPT) files.delete(files.keys().next().value);
    return found;
  }

  function text() {
    return form.elements.find.value.trim().toLowerCase();
  }

  /* Latents whose number or one of whose peaks is the text. */
  function byToken() {
    const word = shown.lexicon.indexOf(text());
    return shown.latents.filter((latent) => String(latent.id) === text() || latent.words.includes(word));
  }

  function say(kept, searched) {
    const all = shown.latents.length;
    const of = kept === all ? many(kept) + " latents" : many(kept) + " of " + many(all) + " latents";
    section.querySelector(".listed").textContent = of + (searched < all ? ", " + many(searched) + " searched" : "");
    whole.hidden = form.elements.in.value === "contexts" || !text();
  }

  function showPart() {
    const next = listed.slice(list.childElementCount, list.childElementCount + PART);
    list.append(...next.map(function (latent) {
      const link = make("a", "", make("b", "", String(latent.id)), make("small", "", percent(latent.frequency)), make("span", "snippet", latent.snippet || "never active here"));
      link.href = address(latent.id);
      link.dataset.id = latent.id;
      return make("li", "", link);
    }));
    const left = listed.length - list.childElementCount;
    more.hidden = left <= 0;
    more.textContent = "Show " + many(Math.min(PART, left)) + " more";
    mark();
  }

  function showList(kept, searched) {
    listed = kept.sort(orders[form.elements.sort.value]);
    list.replaceChildren();
    list.scrollTop = 0;
    say(listed.length, searched);
    showPart();
  }

  /* Every context of every latent, file by file; what is found is listed meanwhile. */
  async function byContext(turn) {
    const wanted = text();
    const kept = [];
    let told = performance.now();
    for (let start = 0; start < shown.latents.length; start += shown.shard) {
      const part = await saeworks.loadPart("latents-" + shown.suite + "-" + shown.site, start / shown.shard);
      if (turn !== sought) return;
      part.forEach(function (latent, i) {
        const holds = latent.contexts.some((context) => context.tokens.join("").toLowerCase().includes(wanted));
        if (holds || String(shown.latents[start + i].id) === wanted) kept.push(shown.latents[start + i]);
      });
      if (performance.now() - told > 400) {
        showList(kept.slice(), start + part.length);
        told = performance.now();
      }
    }
    showList(kept, shown.latents.length);
  }

  /* The list of what is looked for. */
  async function search(wait) {
    const turn = ++sought;
    if (!text()) return showList(shown.latents.slice(), shown.latents.length);
    if (form.elements.in.value === "token") return showList(byToken(), shown.latents.length);
    if (wait) await new Promise((done) => setTimeout(done, WAIT));
    if (turn === sought) await byContext(turn).catch(tellMissing);
  }

  function mark() {
    for (const link of list.querySelectorAll("a")) {
      if (Number(link.dataset.id) === shown.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  function token(text, activation, largest, classes) {
    const element = make("span", (/^ ?[↵⇥␍∅⍽]+$/.test(text) ? "sign" : "") + classes, text);
    if (activation > 0) {
      element.classList.add("on");
      element.style.setProperty("--heat", (0.1 + 0.5 * Math.min(1, activation / largest)).toFixed(2));
      element.dataset.value = saeworks.number(activation);
    }
    return element;
  }

  /* A context: what is near its peak; all of it once it is chosen. */
  function context(found, largest) {
    const activations = new Map(found.on);
    const far = (i) => i < found.peak - BEFORE || i > found.peak + AFTER;
    const first = Math.max(0, found.peak - BEFORE);
    const spans = found.tokens.map((text, i) => token(i === 0 || i === first ? text.replace(/^ +(?=\S)/, i ? "\u200a" : "") : text, activations.get(i) || 0, largest, (far(i) ? " far" : "") + (i === found.peak ? " top" : "")));
    const cut = (there) => (there ? [make("span", "cut", "…")] : []);
    const tokens = make("div", "tokens", ...cut(far(0)), ...spans, ...cut(far(found.tokens.length - 1)));
    if (found.document !== null) tokens.append(make("small", "where", "document " + found.document));
    const peak = make("button", "peak", saeworks.number(activations.get(found.peak) || 0));
    peak.type = "button";
    const item = make("li", "", peak, tokens);
    const turn = function () {
      const open = item.classList.toggle("open");
      peak.setAttribute("aria-expanded", String(open));
    };
    peak.setAttribute("aria-expanded", "false");
    peak.setAttribute("aria-label", "Activation " + peak.textContent + ": show the whole context");
    peak.addEventListener("click", turn);
    tokens.addEventListener("click", () => { if (!String(window.getSelection())) turn(); });
    return item;
  }

  function neighbour(id, cosine) {
    const known = shown.places.has(id);
    const name = make(known ? "a" : "span", "", String(id));
    if (known) name.href = address(id);
    return make("li", "", name, " ", make("small", "", cosine === null ? "–" : cosine.toFixed(2).replace("-", "−")));
  }

  function neighbours(found) {
    const absent = found.filter(([id]) => !shown.places.has(id)).length;
    const out = [make("h4", "", "Nearest decoder rows ", make("small", "", "cosine")), make("ul", "neighbours", ...found.map((n) => neighbour(...n)))];
    if (absent) out.push(make("p", "absent-ones", (absent === found.length ? "None of them is" : "Those without a link are not") + " among the latents kept for this report."));
    return out;
  }

  function stats(latent, told) {
    const pairs = [["fires on", percent(latent.frequency) + " of tokens"], ["largest", saeworks.number(latent.max)], ["mean when active", saeworks.number(told.mean)]];
    return make("dl", "stats", ...pairs.map(([name, text]) => make("div", "", make("dt", "", name), make("dd", "", text))));
  }

  function clear(...children) {
    page.querySelectorAll(".plot").forEach(saeworks.forget);
    page.replaceChildren(...children);
  }

  function tellMissing(error) {
    clear(make("p", "lead", error.message + ": copy the report's whole folder, or write it again with `saeworks report`."));
  }

  async function showLatent() {
    const own = asked;
    const at = shown.places.get(shown.id);
    if (at === undefined) {
      clear(make("p", "lead", shown.latents.length ? "Latent " + shown.id + " is not among those kept for this report." : "No latents were kept for this site."));
      return;
    }
    const told = (await file(Math.floor(at / shown.shard)))[at % shown.shard];
    if (own !== asked) return; // something else was chosen meanwhile
    const latent = shown.latents[at];
    const where = saeworks.data.sites[shown.site] + (saeworks.data.suites.length > 1 ? ", " + saeworks.data.suites[shown.suite] : "");
    clear(make("h3", "", "Latent " + latent.id + " ", make("small", "", where)), stats(latent, told));
    const left = make("div", "");
    const right = make("div", "");
    let plot = null;
    if (told.histogram && told.histogram.counts.length) {
      plot = make("div", "plot");
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", "Histogram of the latent's activations");
      left.append(make("h4", "", "Activations ", make("small", "", "tokens")), plot);
    }
    if (told.neighbours.length) right.append(...neighbours(told.neighbours));
    page.append(make("div", "halves", left, right));
    const largest = Math.max(latent.max || 0, ...told.contexts.flatMap((c) => c.on.map((pair) => pair[1])), 1e-30);
    for (const [kind, title] of [["top", "Where it is most active"], ["quantile", "Elsewhere, from strong to weak"]]) {
      const kept = told.contexts.filter((c) => c.kind === kind);
      if (kept.length) page.append(make("h4", "", title + " ", make("small", "", "choose a line for more of its text")), make("ol", "contexts", ...kept.map((c) => context(c, largest))));
    }
    if (plot) saeworks.draw(plot, histogram(told.histogram));
    mark();
  }

  function histogram(found) {
    const y = found.counts.concat(found.counts[found.counts.length - 1]);
    return { x: { title: "activation" }, y: { zero: true }, series: [{ name: "tokens", x: found.edges, y, kind: "steps", suite: shown.suite }] };
  }

  /* Of how many latents these are, how they were chosen, and what would keep more. */
  function chosen(choice, kept) {
    if (!choice) return [many(kept) + " latents of this SAE were kept."];
    const live = many(choice.live) + " fire on the held-out tokens";
    if (kept >= choice.live) return ["Of the " + many(choice.width) + " latents of this SAE " + live + ": all of these are here."];
    return [many(kept) + " of the " + many(choice.width) + " latents of this SAE, chosen so: " + choice.how + ". " + live + "; with ", make("code", "", "saeworks eval --latents " + choice.live), " all of these are here."];
  }

  function take(suite, site, index) {
    const columns = index || { id: [], lexicon: [], shard: 1, choice: null };
    const latents = columns.id.map((id, at) => ({ id, at, frequency: columns.frequency[at], max: columns.max[at], snippet: columns.snippet[at], words: columns.words[at] }));
    shown = { suite, site, latents, places: new Map(latents.map((one) => [one.id, one.at])), lexicon: columns.lexicon, shard: columns.shard, choice: columns.choice, id: null };
    files.clear();
    section.querySelector(".chosen").replaceChildren(...chosen(shown.choice, latents.length));
    if (form.elements.suite) form.elements.suite.value = suite;
    form.elements.site.value = site;
  }

  async function open(suite, site, id) {
    const own = ++asked;
    if (suite !== shown.suite || site !== shown.site) {
      const index = await saeworks.load("latents-" + suite + "-" + site);
      if (own !== asked) return; // files come in any order
      take(suite, site, index);
      await search(false);
      if (own !== asked) return;
    }
    shown.id = id !== null ? id : listed.length ? listed[0].id : shown.latents.length ? shown.latents[0].id : -1;
    mark();
    await showLatent();
  }

  function follow() {
    const parts = /^#latents\/(\d+)\/(\d+)\/(\d+)$/.exec(location.hash);
    if (!parts) return;
    open(Number(parts[1]), Number(parts[2]), Number(parts[3])).catch(tellMissing);
    const box = page.getBoundingClientRect();
    if (box.top > window.innerHeight * 0.8 || box.top < 0) page.scrollIntoView({ block: "start" });
  }

  function choose() {
    open(form.elements.suite ? Number(form.elements.suite.value) : 0, Number(form.elements.site.value), null).catch(tellMissing);
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
  form.elements.site.addEventListener("change", choose);
  if (form.elements.suite) form.elements.suite.addEventListener("change", choose);
  form.elements.sort.addEventListener("change", () => showList(listed, shown.latents.length));
  form.elements.in.addEventListener("change", () => search(false));
  form.elements.find.addEventListener("input", () => search(true));
  more.addEventListener("click", showPart);
  whole.addEventListener("click", function () {
    form.elements.in.value = "contexts";
    search(false);
    form.elements.find.focus();
  });
  page.addEventListener("pointerover", tell);
  page.addEventListener("click", tell);
  page.addEventListener("pointerleave", () => { value.hidden = true; });
  window.addEventListener("scroll", () => { value.hidden = true; }, { passive: true });
  window.addEventListener("hashchange", follow);
  const first = saeworks.data.files.map((name) => /^latents-(\d+)-(\d+)$/.exec(name)).find(Boolean);
  if (/^#latents\/\d/.test(location.hash)) follow();
  else if (first) open(Number(first[1]), Number(first[2]), null).catch(tellMissing);
})();
