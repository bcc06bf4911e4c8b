/* The browser of latents. The address names what is shown: #latents/SUITE/SITE/LATENT. */
"use strict";

(function () {
  const section = document.getElementById("latents");
  if (!section) return;
  const form = section.querySelector("form");
  const list = section.querySelector("ol");
  const page = section.querySelector("article");
  const value = document.getElementById("value");
  const orders = {
    frequent: (a, b) => b.frequency - a.frequency,
    rare: (a, b) => a.frequency - b.frequency,
    max: (a, b) => b.max - a.max,
    id: (a, b) => a.id - b.id
  };
  let shown = { suite: -1, site: -1, latents: [], id: null };
  let asked = 0;

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
    return share === null ? "–" : saeforge.number(share * 100) + "%";
  }

  function snippet(latent) {
    const best = latent.contexts[0];
    if (!best) return "never active here";
    return best.tokens.slice(Math.max(0, best.peak - 3), best.peak + 4).join("").trim();
  }

  function matches(latent, text) {
    if (!text || String(latent.id) === text) return true;
    return latent.contexts.some((context) => context.tokens.join("").toLowerCase().includes(text));
  }

  function showList() {
    const text = form.elements.find.value.trim().toLowerCase();
    const kept = shown.latents.filter((latent) => matches(latent, text)).sort(orders[form.elements.sort.value]);
    section.querySelector(".listed").textContent = kept.length === shown.latents.length
      ? kept.length + " latents" : kept.length + " of " + shown.latents.length + " latents";
    list.replaceChildren(...kept.map(function (latent) {
      const link = make("a", "", make("b", "", String(latent.id)), make("small", "", percent(latent.frequency)), make("span", "snippet", snippet(latent)));
      link.href = address(latent.id);
      link.dataset.id = latent.id;
      return make("li", "", link);
    }));
    mark();
    return kept;
  }

  function mark() {
    for (const link of list.querySelectorAll("a")) {
      if (Number(link.dataset.id) === shown.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  function token(text, activation, largest, isPeak) {
    const element = make("span", /^ ?[↵⇥␍∅⍽]+$/.test(text) ? "sign" : "", text);
    if (activation > 0) {
      element.classList.add("on");
      element.style.setProperty("--heat", (0.1 + 0.5 * Math.min(1, activation / largest)).toFixed(2));
      element.dataset.value = saeforge.number(activation);
    }
    if (isPeak) element.classList.add("top");
    return element;
  }

  function context(found, largest) {
    const tokens = make("div", "tokens", ...found.tokens.map((text, i) => token(i === 0 ? text.replace(/^ +(?=\S)/, "") : text, found.activations[i], largest, i === found.peak)));
    const peak = make("span", "peak", saeforge.number(found.activations[found.peak]));
    if (found.document !== null) peak.title = "document " + found.document;
    return make("li", "", peak, tokens);
  }

  function neighbour(id, cosine) {
    const known = shown.latents.some((latent) => latent.id === id);
    const name = make(known ? "a" : "span", "", String(id));
    if (known) name.href = address(id);
    else name.title = "not among the latents kept for this report";
    return make("li", "", name, " ", make("small", "", cosine === null ? "–" : cosine.toFixed(2).replace("-", "−")));
  }

  function stats(latent) {
    const pairs = [["fires on", percent(latent.frequency) + " of tokens"], ["largest", saeforge.number(latent.max)], ["mean when active", saeforge.number(latent.mean)]];
    return make("dl", "stats", ...pairs.map(([name, text]) => make("div", "", make("dt", "", name), make("dd", "", text))));
  }

  function showLatent() {
    const latent = shown.latents.find((one) => one.id === shown.id);
    page.querySelectorAll(".plot").forEach(saeforge.forget);
    page.replaceChildren();
    if (!latent) {
      page.append(make("p", "lead", shown.latents.length ? "No latent " + shown.id + " among those kept for this report." : "No latents were kept for this site."));
      return;
    }
    const where = saeforge.data.sites[shown.site] + (saeforge.data.suites.length > 1 ? ", " + saeforge.data.suites[shown.suite] : "");
    page.append(make("h3", "", "Latent " + latent.id + " ", make("small", "", where)), stats(latent));
    const left = make("div", "");
    const right = make("div", "");
    let plot = null;
    if (latent.histogram && latent.histogram.counts.length) {
      plot = make("div", "plot");
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", "Histogram of the latent's activations");
      left.append(make("h4", "", "Activations"), plot);
    }
    if (latent.neighbours.length) {
      right.append(make("h4", "", "Nearest decoder rows ", make("small", "", "cosine")), make("ul", "neighbours", ...latent.neighbours.map((n) => neighbour(...n))));
    }
    page.append(make("div", "halves", left, right));
    const largest = Math.max(latent.max || 0, ...latent.contexts.flatMap((c) => c.activations), 1e-30);
    for (const [kind, title] of [["top", "Where it is most active"], ["quantile", "Elsewhere, from strong to weak"]]) {
      const kept = latent.contexts.filter((c) => c.kind === kind);
      if (kept.length) page.append(make("h4", "", title), make("ol", "contexts", ...kept.map((c) => context(c, largest))));
    }
    if (plot) saeforge.draw(plot, histogram(latent.histogram));
    mark();
  }

  function histogram(found) {
    const y = found.counts.concat(found.counts[found.counts.length - 1]);
    return { x: { title: "activation" }, y: { zero: true }, series: [{ name: "tokens", x: found.edges, y, kind: "steps", suite: shown.suite }] };
  }

  async function open(suite, site, id) {
    const own = ++asked;
    if (suite !== shown.suite || site !== shown.site) {
      const latents = await saeforge.load("latents-" + suite + "-" + site);
      if (own !== asked) return; // something else was chosen meanwhile, and files come in any order
      shown = { suite, site, latents: latents || [], id: null };
      if (form.elements.suite) form.elements.suite.value = suite;
      form.elements.site.value = site;
      form.elements.find.value = "";
      showList();
    }
    shown.id = id !== null ? id : shown.latents.length ? Number((list.querySelector("a") || { dataset: { id: -1 } }).dataset.id) : -1;
    mark();
    showLatent();
  }

  function follow() {
    const parts = /^#latents\/(\d+)\/(\d+)\/(\d+)$/.exec(location.hash);
    if (!parts) return;
    open(Number(parts[1]), Number(parts[2]), Number(parts[3]));
    const box = page.getBoundingClientRect();
    if (box.top > window.innerHeight * 0.8 || box.top < 0) page.scrollIntoView({ block: "start" });
  }

  function choose() {
    open(form.elements.suite ? Number(form.elements.suite.value) : 0, Number(form.elements.site.value), null);
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
  form.elements.sort.addEventListener("change", showList);
  form.elements.find.addEventListener("input", showList);
  page.addEventListener("pointerover", tell);
  page.addEventListener("click", tell);
  page.addEventListener("pointerleave", () => { value.hidden = true; });
  window.addEventListener("scroll", () => { value.hidden = true; }, { passive: true });
  window.addEventListener("hashchange", follow);
  const first = saeforge.data.files.map((name) => /^latents-(\d+)-(\d+)$/.exec(name)).find(Boolean);
  if (/^#latents\/\d/.test(location.hash)) follow();
  else if (first) open(Number(first[1]), Number(first[2]), null);
})();
