/* The page of one latent: all that is known of it, with links to what else is like it.

   saeworks.latentPage(page, latent, details, links) fills an article. latent is its row of the
   list, details what its file has; links is {latent(number), find(text, where), where, suite,
   choice}: the address of another latent, null where it is not here; of a search; the site's name;
   what the result says of all its latents. */
/* global saeworks */
"use strict";

saeworks.make = function (tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
};

saeworks.percent = function (share) {
  return share === null || share < 0 ? "–" : saeworks.number(share * 100) + "%";
};

saeworks.latentPage = (function () {
  const make = saeworks.make;
  const BEFORE = 8, AFTER = 5; // tokens of a context that is not expanded

  function link(href, className, ...children) {
    const element = make(href ? "a" : "span", className, ...children);
    if (href) element.href = href;
    return element;
  }

  function heading(title, note) {
    return make("h4", "", title + " ", make("small", "", note || ""));
  }

  function signed(value) {
    return value === null ? "–" : (value > 0 ? "+" : "") + saeworks.number(value);
  }

  function two(value) {
    return value === null ? "–" : value.toFixed(2).replace("-", "−");
  }

  function stats(latent, details) {
    const pairs = [["fires on", saeworks.percent(latent.frequency) + " of tokens"], ["largest", saeworks.number(latent.max)], ["mean when active", saeworks.number(details.mean)]];
    if (latent.expert !== null) pairs.push(["expert", String(latent.expert)]);
    return make("dl", "stats", ...pairs.map(([name, text]) => make("div", "", make("dt", "", name), make("dd", "", text))));
  }

  function explanation(told) {
    const scores = told.scores.map(([title, value, low, high]) => make("span", "score", title + " ", make("b", "", two(value)), low === null || high === null ? "" : " (" + two(low) + " to " + two(high) + ")"));
    return make("li", "", make("p", "text", told.text), make("p", "scores", make("span", "by", "by a " + (told.by === "model" ? "language model" : told.by)), ...scores));
  }

  function verdict([word, note, rater]) {
    return make("li", "", make("b", "", word), note ? ": " + note : "", rater ? make("small", "", " " + rater) : "");
  }

  /* What studies say of the latent. */
  function* meaning(details, links) {
    if (details.explanations) {
      yield heading("When it fires", "explanations, the best first");
      yield make("ul", "explanations", ...details.explanations.map(explanation));
    }
    if (details.concepts) {
      yield heading("Concepts that it detects", "F1");
      yield make("ul", "chips", ...details.concepts.map(([name, f1]) => make("li", "", link(links.find(name, "concepts"), "", name), " ", make("small", "", two(f1)))));
    }
    if (details.verdicts) {
      yield heading("What people say");
      yield make("ul", "verdict-list", ...details.verdicts.map(verdict));
    }
  }

  function tokens(title, listed, address) {
    return [heading(title, "logit per unit"), make("ul", "chips effects", ...listed.map(([text, effect]) => make("li", "", link(address(text.trim()), "", text), " ", make("small", "", signed(effect)))))];
  }

  function number(id, links, value, note) {
    const item = make("li", "", link(links.latent(id), "", String(id)), " ", make("small", "", value));
    if (note) item.title = note;
    return item;
  }

  function* others(details, links) {
    const shown = [...details.neighbours, ...(details.partners || [])].map(([id]) => id);
    const absent = shown.filter((id) => !links.latent(id)).length;
    if (details.neighbours.length) {
      yield heading("Nearest decoder rows", "cosine");
      yield make("ul", "chips neighbours", ...details.neighbours.map(([id, cosine]) => number(id, links, two(cosine))));
    }
    if (details.partners) {
      yield heading("Fires together with", "correlation φ");
      yield make("ul", "chips partners", ...details.partners.map(([id, phi, share]) => number(id, links, two(phi), saeworks.percent(share) + " of the tokens on which this latent fires")));
    }
    if (absent) yield make("p", "absent-ones", (absent === shown.length ? "None of them is" : "Those without a link are not") + " among the latents kept for this report.");
  }

  /* How the numbers above were counted. */
  function* counted(details, choice) {
    const told = [["Effects on the logits: ", choice && choice.effects], ["Firing together: ", details.partners && choice && choice.partners]];
    const clauses = told.filter(([, clause]) => clause).map(([name, clause]) => name + clause + ".");
    if (clauses.length) yield make("p", "absent-ones", clauses.join(" "));
  }

  function steered(told) {
    const effects = told.effects.map(([title, value]) => make("span", "score", title + " ", make("b", "", saeworks.number(value))));
    const written = (title, text) => make("div", "", make("dt", "", title), make("dd", "", make("span", "prompt", told.prompt), text));
    return make("li", "", make("p", "scores", make("b", "", told.edit), ...effects), make("dl", "written", written("before", told.before), written("after", told.after)));
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
  function context(shown, largest) {
    const activations = new Map(shown.on);
    const far = (i) => i < shown.peak - BEFORE || i > shown.peak + AFTER;
    const first = Math.max(0, shown.peak - BEFORE);
    const spans = shown.tokens.map((text, i) => token(i === 0 || i === first ? text.replace(/^ +(?=\S)/, i ? "\u200a" : "") : text, activations.get(i) || 0, largest, (far(i) ? " far" : "") + (i === shown.peak ? " top" : "")));
    const cut = (there) => (there ? [make("span", "cut", "…")] : []);
    const line = make("div", "tokens", ...cut(far(0)), ...spans, ...cut(far(shown.tokens.length - 1)));
    if (shown.document !== null) line.append(make("small", "where", "document " + shown.document));
    const peak = make("button", "peak", saeworks.number(activations.get(shown.peak) || 0));
    peak.type = "button";
    const item = make("li", "", peak, line);
    const turn = () => peak.setAttribute("aria-expanded", String(item.classList.toggle("open")));
    peak.setAttribute("aria-expanded", "false");
    peak.setAttribute("aria-label", "Activation " + peak.textContent + ": show the whole context");
    peak.addEventListener("click", turn);
    line.addEventListener("click", () => { if (!String(window.getSelection())) turn(); });
    return item;
  }

  function* contexts(latent, details) {
    const largest = Math.max(latent.max || 0, ...details.contexts.flatMap((c) => c.on.map((pair) => pair[1])), 1e-30);
    for (const [kind, title] of [["top", "Where it is most active"], ["quantile", "Elsewhere, from strong to weak"]]) {
      const kept = details.contexts.filter((c) => c.kind === kind);
      if (!kept.length) continue;
      yield heading(title, "choose a line for more of its text");
      yield make("ol", "contexts", ...kept.map((c) => context(c, largest)));
    }
  }

  function histogram(counted, suite) {
    const y = counted.counts.concat(counted.counts[counted.counts.length - 1]);
    return { x: { title: "activation" }, y: { zero: true }, series: [{ name: "tokens", x: counted.edges, y, kind: "steps", suite }] };
  }

  return function (page, latent, details, links) {
    const left = make("div", "", ...(details.histogram.counts.length ? [heading("Activations", "tokens")] : []));
    const right = make("div", "", ...others(details, links));
    const promote = (word) => links.find(word, "promoted");
    const effects = [["promoted", "Makes more likely", promote], ["suppressed", "Makes less likely", () => null]].filter(([key]) => details[key]);
    page.append(
      make("h3", "", "Latent " + latent.id + " ", make("small", "", links.where)), stats(latent, details),
      ...meaning(details, links),
      make("div", "halves", left, right),
      make("div", "halves even", ...effects.map(([key, title, address]) => make("div", "", ...tokens(title, details[key], address)))),
      ...counted(details, links.choice),
      ...contexts(latent, details)
    );
    if (details.steered) page.append(heading("Steered", "what the model writes"), make("ul", "steered", ...details.steered.map(steered)));
    if (!details.histogram.counts.length) return;
    const plot = make("div", "plot");
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", "Histogram of the latent's activations");
    left.append(plot);
    saeworks.draw(plot, histogram(details.histogram, links.suite));
  };
})();
