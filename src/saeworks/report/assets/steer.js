/* Concepts that were pushed up and down (`SteeredConcept` of results/series.py): rate against cost
   and strength, rates at the same cost, and what the model wrote before and after. */
/* global saeworks */
"use strict";

(function () {
  const INKS = { "latents": 0, "mean difference": 1, "random latents": 7, "random directions": 6 };
  const SHAPES = { "latents": 0, "mean difference": 1, "random latents": 2, "random directions": 3 };
  const percent = (value) => (value === null || value === undefined ? "–" : String(Math.round(100 * value) || 0).replace("-", "−") + "%");
  const between = (value) => percent(value.value) + (value.low === null ? "" : " [" + percent(value.low) + ", " + percent(value.high) + "]");

  function make(tag, parent, text, name) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  }

  /* A line for each kind of push; `x` gives a point's place. */
  function lines(concept, x, title) {
    return {
      x: { title }, y: { zero: true },
      series: concept.curves.map((curve) => ({
        name: curve.by, suite: INKS[curve.by], shape: SHAPES[curve.by], kind: "both",
        x: curve.points.map(x), y: curve.points.map((p) => p.rate.value),
        low: curve.points.map((p) => p.rate.low), high: curve.points.map((p) => p.rate.high),
        text: curve.points.map((p) => "strength " + saeworks.number(p.strength) + ", ΔCE " + saeworks.number(p.cost.value) + " nats; generated text " + saeworks.number(p.nats) + " nats per token")
      }))
    };
  }

  /* Pushed down to the left, up to the right. */
  const signed = (point) => (point.cost.value === null ? null : Math.sign(point.strength) * Math.max(0, point.cost.value));

  function charts(parent, concept) {
    const row = make("div", parent, undefined, "figures");
    for (const [title, x, axis] of [
      ["Rate against cost: a push down to the left, up to the right", signed, "ΔCE of held-out text, nats (left: pushed down)"],
      ["Rate against strength", (p) => p.strength, "strength, RMS norms of the site"]
    ]) {
      const figure = make("figure", row);
      make("p", make("figcaption", figure), title);
      const plot = make("div", figure, undefined, "plot");
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", title);
      saeworks.draw(plot, lines(concept, x, axis));
    }
    saeworks.legend(make("p", parent, undefined, "legend"), lines(concept, signed, "").series);
  }

  function table(parent, caption, head, rows) {
    make("p", parent, caption, "caption");
    const box = make("div", parent, undefined, "scroll");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", caption);
    const whole = make("table", box);
    const top = make("tr", make("thead", whole));
    for (const name of head) make("th", top, name).scope = "col";
    const body = make("tbody", whole);
    for (const cells of rows) {
      const line = make("tr", body);
      cells.forEach((cell, at) => make(at ? "td" : "th", line, cell));
    }
  }

  function texts(parent, concept) {
    const prompts = [...new Set(concept.texts.map((text) => text.prompt))];
    const box = make("details", parent);
    make("summary", box, "What the model wrote, untouched and pushed");
    for (const prompt of prompts) {
      const rows = concept.texts.filter((text) => text.prompt === prompt).map((text) => [
        text.by === null ? "untouched" : text.by + ", " + (text.strength > 0 ? "up " : "down ") + saeworks.number(Math.abs(text.strength)),
        text.text
      ]);
      table(box, "“" + prompt + " …”", ["pushed by", "goes on"], rows);
    }
  }

  function show(parent, concept, page) {
    make("h4", parent, concept.concept);
    const line = make("p", parent, concept.latents.length > 1 ? "Latents " : "Latent ", "caption");
    concept.latents.forEach(function (latent, at) {
      const address = page.latent(page.site, latent);
      const named = address === null ? make("span", line, String(latent)) : make("a", line, String(latent));
      if (address !== null) named.href = address;
      const r = concept.correlations[at];
      line.append((r === null ? "" : " (r = " + saeworks.number(r) + ")") + (at < concept.latents.length - 1 ? ", " : ""));
    });
    line.append("; " + concept.prompts + " prompts, judged by " + concept.judge + ". Set to 0: rate " + between(concept.ablated.rate) + ", ΔCE " + saeworks.number(concept.ablated.cost.value) + ".");
    charts(parent, concept);
    table(parent, "At the same cost, ΔCE " + saeworks.number(concept.cost) + " nats (or the strongest push, where it costs less)",
      ["pushed by", "down to", "up to", "up − down", "cost down, up"],
      concept.at_cost.map((at) => [at.by, between(at.down), between(at.up), between(at.span), saeworks.number(at.reached[1]) + ", " + saeworks.number(at.reached[0])]));
    texts(parent, concept);
  }

  saeworks.view("steer", function (element, concepts, page) {
    element.replaceChildren();
    element.classList.add("pushes");
    for (const concept of concepts) show(make("div", element, undefined, "concept"), concept, page);
  });
})();
