/* The graph of a circuit (`CircuitGraph` of results/series.py): layers from bottom to top, positions
   from left to right, a circle for each latent at a position, a curve for what of its effect goes
   through a later one. Drawn as SVG in the page's colours. */
/* global saeworks */
"use strict";

(function () {
  const SVG = "http://www.w3.org/2000/svg";
  const FEW = 60; // edges that are shown at first
  const LISTED = 5; // edges of a node that are told, and shown while it is chosen
  const ROW = 5; // nodes of a layer and position beside one another
  const SITE = 20; // letters of a site's name
  const STEP = 26, TOKENS = 78, TOP = 62;
  const number = (value) => Number(value.toPrecision(3)).toString().replace("-", "−");
  const sign = (value) => (value < 0 ? "lowers" : "raises");

  function make(tag, parent, text, attributes) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    parent.append(element);
    return element;
  }

  function shape(tag, parent, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  const short = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
  const seen = (token) => token.replace(/\n/g, "↵").replace(/\t/g, "⇥").trim() || "␣";

  /* Where everything stands: columns as wide as their fullest cell, layers as high as theirs. */
  function places(graph) {
    const cells = new Map();
    graph.nodes.forEach((node, at) => {
      const key = node.site + "\n" + node.position;
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(at);
    });
    const across = graph.tokens.map(() => 1), high = new Map(graph.sites.map((site) => [site, 1]));
    for (const nodes of cells.values()) {
      const { site, position } = graph.nodes[nodes[0]];
      across[position] = Math.max(across[position], Math.min(ROW, nodes.length));
      high.set(site, Math.max(high.get(site), Math.ceil(nodes.length / ROW)));
    }
    const left = [24 + 7 * Math.min(SITE, Math.max(...graph.sites.map((site) => site.length)))];
    for (const count of across) left.push(left[left.length - 1] + Math.max(30, STEP * count + 10));
    const bottom = [];
    let height = TOP;
    for (const site of [...graph.sites].reverse()) {
      height += STEP * high.get(site) + 30;
      bottom.unshift(height);
    }
    const at = [];
    for (const nodes of cells.values()) {
      const { site, position } = graph.nodes[nodes[0]];
      const middle = (left[position] + left[position + 1]) / 2, base = bottom[graph.sites.indexOf(site)] - 18;
      nodes.forEach((place, rank) => {
        const row = Math.floor(rank / ROW), inRow = Math.min(ROW, nodes.length - row * ROW);
        at[place] = { x: middle + STEP * ((rank % ROW) - (inRow - 1) / 2), y: base - STEP * row };
      });
    }
    const last = graph.tokens.length - 1;
    const answer = { x: (left[last] + left[last + 1]) / 2, y: TOP - 30 };
    return { at, answer, left, bottom, width: left[last + 1] + 24, height: height + TOKENS };
  }

  /* Every edge, those to the answer too (target null), the largest first. */
  function edgesOf(graph) {
    const direct = graph.nodes.map((node, at) => ({ source: at, target: null, weight: node.direct }));
    return [...graph.edges.map((edge) => ({ ...edge })), ...direct].filter((edge) => edge.weight !== 0).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  }

  /* The nodes and edges of all ways through a node, along the edges that are shown. */
  function ways(node, shown) {
    const nodes = new Set([node]), edges = new Set();
    for (const [from, to] of [["source", "target"], ["target", "source"]]) {
      const waiting = [node], done = new Set(waiting);
      while (waiting.length) {
        const current = waiting.pop();
        for (const edge of shown) {
          if (edge[from] !== current) continue;
          edges.add(edge);
          if (edge[to] === null || done.has(edge[to])) continue;
          done.add(edge[to]);
          nodes.add(edge[to]);
          waiting.push(edge[to]);
        }
      }
    }
    return { nodes, edges };
  }

  const tokenAt = (graph, position) => seen(graph.tokens[position]) + (graph.varies[position] ? " (varies)" : "");
  const named = (graph, at) => graph.nodes[at].site + ", “" + seen(graph.tokens[graph.nodes[at].position]) + "”, latent " + graph.nodes[at].latent;
  const about = (node) => node.label || node.promoted.map(seen).join(" · ");

  function drawScene(svg, graph, place, edges) {
    graph.sites.forEach((site, at) => {
      shape("line", svg, { x1: place.left[0], x2: place.width, y1: place.bottom[at], y2: place.bottom[at], class: "floor" });
      const label = shape("text", svg, { x: place.left[0] - 10, y: place.bottom[at] - 14, class: "site" }, short(site, SITE));
      shape("title", label, {}, site);
    });
    graph.tokens.forEach((token, at) => {
      const x = (place.left[at] + place.left[at + 1]) / 2, y = place.bottom[0] + 16;
      const label = shape("text", svg, { x, y, transform: "rotate(40 " + x + " " + y + ")", class: graph.varies[at] ? "token varies" : "token" }, short(seen(token), 12));
      shape("title", label, {}, graph.varies[at] ? "Differs between the prompts; here that of the first" : "The same in all prompts");
    });
    const { x, y } = place.answer;
    shape("text", svg, { x: x + 12, y: y - 14, class: "answer" }, "m = logit “" + seen(graph.clean_answer) + "” − logit “" + seen(graph.patch_answer) + "”");
    shape("rect", svg, { x: x - 8, y: y - 8, width: 16, height: 16, rx: 3, class: "end" });
    const largest = edges.length ? Math.abs(edges[0].weight) : 1;
    for (const edge of [...edges].reverse()) {
      const from = place.at[edge.source], to = edge.target === null ? place.answer : place.at[edge.target];
      const bend = (from.y - to.y) / 2;
      const path = "M" + from.x + " " + from.y + "C" + from.x + " " + (from.y - bend) + " " + to.x + " " + (to.y + bend) + " " + to.x + " " + to.y;
      const width = 0.6 + 5 * Math.sqrt(Math.abs(edge.weight) / largest);
      edge.line = shape("path", svg, { d: path, "stroke-width": width.toFixed(2), class: "edge " + sign(edge.weight) });
    }
  }

  /* Circles that can be reached by Tab and arrows; those with a page in the browser are links. */
  function drawNodes(svg, graph, place, page, events) {
    const size = Math.max(...graph.nodes.map((node) => Math.abs(node.effect)));
    return graph.nodes.map((node, at) => {
      const address = page.latent(node.site, node.latent);
      const group = shape(address ? "a" : "g", svg, address ? { href: address } : {});
      const { x, y } = place.at[at], radius = 4 + 8 * Math.sqrt(Math.abs(node.effect) / size);
      shape("circle", group, { cx: x, cy: y, r: radius.toFixed(1) });
      group.setAttribute("class", "node " + sign(node.effect));
      group.setAttribute("tabindex", at === 0 ? "0" : "-1");
      group.setAttribute("role", address ? "link" : "img");
      group.setAttribute("aria-label", named(graph, at) + ", effect " + number(node.effect) + (about(node) ? ", " + about(node) : ""));
      for (const [event, react] of Object.entries(events)) group.addEventListener(event, (happened) => react(at, happened));
      return group;
    });
  }

  /* The nearest node in the direction of an arrow: along its layer, or in the next layer that has one. */
  function next(graph, place, from, key) {
    const here = place.at[from], layer = (at) => graph.sites.indexOf(graph.nodes[at].site);
    const along = key === "ArrowLeft" || key === "ArrowRight";
    const ahead = key === "ArrowRight" || key === "ArrowUp" ? 1 : -1;
    let best = null, least = Infinity;
    graph.nodes.forEach((_, at) => {
      const by = along ? (place.at[at].x - here.x) * ahead : (layer(at) - layer(from)) * ahead;
      if (at === from || by <= 0 || (along && layer(at) !== layer(from))) return;
      const distance = along ? by + Math.abs(place.at[at].y - here.y) / 100 : by * 1e4 + Math.abs(place.at[at].x - here.x);
      if (distance < least) [best, least] = [at, distance];
    });
    return best;
  }

  function list(parent, title, graph, edges, end) {
    if (!edges.length) return;
    make("h4", parent, title);
    const lines = make("ul", parent);
    for (const edge of edges.slice(0, LISTED)) make("li", lines, (edge[end] === null ? "m, directly" : named(graph, edge[end])) + ": " + number(edge.weight));
    if (edges.length > LISTED) make("li", lines, edges.length - LISTED + " more");
  }

  function tell(panel, graph, edges, at, page) {
    panel.replaceChildren();
    if (at === null) {
      make("p", panel, "Choose a latent to see what it acts through: point at it, or go to it with Tab and the arrow keys. Enter opens it in the browser of latents.");
      return;
    }
    const node = graph.nodes[at];
    const title = make("h4", panel), address = page.latent(node.site, node.latent);
    make(address ? "a" : "span", title, "Latent " + node.latent + " of " + node.site, address ? { href: address } : {});
    make("p", panel, "at position " + node.position + ", “" + tokenAt(graph, node.position) + "”" + (node.label ? ": " + node.label : ""));
    if (node.promoted.length) make("p", panel, "Promotes " + node.promoted.map(seen).join(" · "));
    make("p", panel, "Activation " + number(node.clean) + " on the clean prompts, " + number(node.patch) + " on the patched. Patching it changes m by " + number(node.effect) + ", of which " + number(node.direct) + " by no other latent shown.");
    list(panel, "Acts through", graph, edges.filter((edge) => edge.source === at), "target");
    list(panel, "Is acted on by", graph, edges.filter((edge) => edge.target === at), "source");
  }

  function controls(element, edges, change) {
    const form = make("form", element, undefined, { class: "controls" });
    form.addEventListener("submit", (event) => event.preventDefault());
    const label = make("label", form, "Edges ");
    const least = Math.abs(edges.length ? edges[edges.length - 1].weight : 1), largest = Math.abs(edges.length ? edges[0].weight : 1);
    const few = Math.abs(edges.length ? edges[Math.min(FEW, edges.length) - 1].weight : 1);
    const span = Math.log(largest / least) || 1;
    const slider = make("input", label, undefined, { type: "range", min: "0", max: "1", step: "any", "aria-label": "Smallest weight of an edge that is shown" });
    slider.value = String(Math.log(few / least) / span);
    const output = make("output", form);
    const show = function () {
      const bound = least * Math.exp(span * Number(slider.value)) * (1 - 1e-9);
      const count = edges.filter((edge) => Math.abs(edge.weight) >= bound).length;
      output.textContent = "of at least " + number(bound) + " (" + count + " of " + edges.length + ")";
      change(bound);
    };
    slider.addEventListener("input", show);
    slider.addEventListener("change", (event) => event.stopPropagation());
    return show;
  }

  function draw(element, graph, page) {
    element.replaceChildren();
    element.classList.add("circuit");
    const place = places(graph), all = edgesOf(graph);
    make("p", element, "Task " + graph.task + ", case " + graph.case + ", mean over " + graph.prompts + " pairs of prompts: m is " + number(graph.clean) + " on the clean prompts and " + number(graph.patch) + " on the patched.", { class: "caption" });
    let large = [], chosen = null, nodes = [];
    const start = controls(element, all, function (bound) {
      large = all.filter((edge) => Math.abs(edge.weight) >= bound);
      mark(chosen);
    });
    const legend = make("div", element, undefined, { class: "legend" });
    for (const [kind, text] of [["lowers", "patching it lowers m, as patching the prompt does"], ["raises", "patching it raises m"]]) make("i", make("span", legend, " " + text), undefined, { class: kind });
    const beside = make("div", element, undefined, { class: "beside-graph" });
    const scroll = make("div", beside, undefined, { class: "graph" });
    const svg = shape("svg", scroll, { style: "width: 100%; max-width: " + place.width + "px; min-width: " + 0.75 * place.width + "px", viewBox: "0 0 " + place.width + " " + place.height, role: "group", "aria-label": "Graph of the circuit: " + graph.nodes.length + " latents in " + graph.sites.length + " layers" });
    const panel = make("div", beside, undefined, { class: "told", "aria-live": "polite" });

    function mark(at) {
      const own = at === null ? [] : ["source", "target"].flatMap((end) => all.filter((edge) => edge[end] === at).slice(0, LISTED));
      const shown = new Set([...large, ...own]), lit = at === null ? null : ways(at, shown);
      nodes.forEach((node, other) => node.classList.toggle("dim", lit !== null && !lit.nodes.has(other)));
      for (const edge of all) {
        edge.line.toggleAttribute("hidden", !shown.has(edge));
        edge.line.classList.toggle("dim", lit !== null && !lit.edges.has(edge));
      }
    }
    function choose(at) {
      if (at === chosen) return;
      chosen = at;
      mark(at);
      tell(panel, graph, all, at, page);
    }

    drawScene(svg, graph, place, all);
    nodes = drawNodes(svg, graph, place, page, {
      pointerenter: choose,
      focus: choose,
      keydown: function (at, event) {
        if (!event.key.startsWith("Arrow")) return;
        event.preventDefault();
        const to = next(graph, place, at, event.key);
        if (to === null) return;
        nodes[at].setAttribute("tabindex", "-1");
        nodes[to].setAttribute("tabindex", "0");
        nodes[to].focus();
      }
    });
    svg.addEventListener("click", (event) => event.target === svg && choose(null));
    element.addEventListener("keydown", (event) => event.key === "Escape" && choose(null));
    start();
    scroll.scrollLeft = place.width; // most of a circuit is near the answer
    tell(panel, graph, all, null, page);
  }

  saeworks.view("circuit", draw);
})();
