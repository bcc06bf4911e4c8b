/* Experts: the heat map over experts and k, and one SAE in detail. */
/* global Plotly, saeworks */
"use strict";

(function () {
  const { plain, style } = saeworks;
  const percent = (share) => (share === null || share === undefined ? "–" : (100 * share).toFixed(share < 0.1 ? 1 : 0) + "%");
  const range = (n) => [...Array(n).keys()];
  const known = (values) => values.filter((v) => v !== null);

  function layout(extra) {
    return Object.assign({
      margin: { l: 44, r: 10, t: 8, b: 40 }, showlegend: false, hovermode: "closest", dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--sans"), size: 12, color: style("--quiet") },
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--text"), size: 13 } }
    }, extra);
  }

  /* map: z, columns, rows, x and y (titles), largest, say(row, column) → text, square. */
  function heat(element, map) {
    const bare = { fixedrange: true, showgrid: false, zeroline: false, ticks: "", automargin: true };
    const narrow = element.clientWidth < 560;
    const spoken = (label) => (narrow ? plain(label).replace(/, /g, ",<br>") : plain(label));
    const names = (labels, title) => Object.assign({ title: { text: title, standoff: 6 } }, bare, labels.length > 10 && typeof labels[0] === "number" ? { nticks: 8 } : { tickvals: range(labels.length), ticktext: labels.map(spoken) });
    const trace = {
      type: "heatmap", x: range(map.columns.length), y: range(map.rows.length), z: map.z, zmin: 0, zmax: map.largest || 1,
      colorscale: "Viridis", xgap: 1, ygap: 1, hovertext: map.z.map((row, i) => row.map((_, j) => map.say(i, j))), hovertemplate: "%{hovertext}<extra></extra>", hoverongaps: false,
      colorbar: { thickness: 10, outlinewidth: 0, tickfont: { color: style("--quiet") }, nticks: 6 }
    };
    if (map.inside) Object.assign(trace, { text: map.inside, texttemplate: "%{text}", showscale: !narrow });
    Plotly.react(element, [trace], layout({
      xaxis: Object.assign(names(map.columns, map.x), map.square ? { constrain: "domain" } : {}),
      yaxis: Object.assign({ autorange: "reversed" }, names(map.rows, map.y), map.square ? { scaleanchor: "x", constrain: "domain" } : {})
    }), { displayModeBar: false, responsive: true });
  }

  function matrix(values, largest, word) {
    const n = values.length;
    return (element) => heat(element, {
      z: values, rows: range(n), columns: range(n), x: word, y: word, largest, square: true,
      say: (i, j) => word + " " + i + " and " + j + ": <b>" + saeworks.number(values[i][j]) + "</b>"
    });
  }

  /* Hues around the wheel, neighbours in number far apart in hue. */
  function hue(expert) {
    return "hsl(" + ((expert * 137.5) % 360).toFixed(0) + "," + (saeworks.dark() ? "65%,64%" : "62%,44%") + ")";
  }

  function cloud(tsne, which, word) {
    return function (element) {
      const places = tsne[which];
      const bare = { visible: false, fixedrange: true };
      Plotly.react(element, [{
        type: "scatter", mode: "markers", x: places.map((p) => p[0]), y: places.map((p) => p[1]),
        marker: { size: places.length > 1500 ? 3.5 : 5, color: tsne.expert.map(hue), opacity: 0.85 },
        text: tsne.latents.map((l, i) => "latent " + l + ", " + word + " " + tsne.expert[i]), hovertemplate: "%{text}<extra></extra>"
      }], layout({ margin: { l: 6, r: 6, t: 6, b: 6 }, xaxis: bare, yaxis: Object.assign({ scaleanchor: "x" }, bare) }), { displayModeBar: false, responsive: true });
    };
  }

  function make(tag, text, parent) {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  }

  function table(parent, caption, head, rows) {
    const line = make("p", caption, parent);
    line.className = "caption";
    const box = make("div", "", parent);
    box.className = "scroll" + (rows.length > 24 ? " tall" : "");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", caption);
    const own = make("table", "", box);
    const top = make("tr", "", make("thead", "", own));
    head.forEach((name, i) => Object.assign(make("th", name, top), { scope: "col", className: i ? "numeric" : "" }));
    const body = make("tbody", "", own);
    for (const row of rows) {
      const line = make("tr", "", body);
      row.forEach((cell, i) => Object.assign(make(i ? "td" : "th", typeof cell === "number" || cell === null ? saeworks.number(cell) : cell, line), { className: i ? "numeric" : "" }));
    }
  }

  /* Everything of one SAE: [title, about, draw, caption, head, rows]. */
  function parts(own, beside, names) {
    const found = [];
    const word = own.similarity && own.similarity.kind === "cut" ? "block" : "expert";
    const say = (name) => own.about[name] || "";
    const add = (title, about, draw, head, rows, legend) => found.push({ title, about, draw, head, rows, legend });
    if (own.load) {
      const n = own.load.share.length;
      const even = { name: "an even share", kind: "line", suite: 1, x: [-0.5, n - 0.5], y: [1 / n, 1 / n] };
      const bars = {
        name: "share of visits", kind: "bars", suite: 0, x: range(n), y: own.load.share,
        text: own.load.share.map((_, i) => "expert " + i + ", " + own.load.live[i] + " live latents, confidence " + saeworks.number(own.load.confidence[i]))
      };
      const chart = { x: { title: "expert" }, y: { zero: true }, series: [bars, even] };
      add("Load of each expert", say("load") + " The line is an even share.", (e) => saeworks.draw(e, chart), ["expert", "share of visits", "mean confidence", "live latents"], range(n).map((i) => [String(i), own.load.share[i], own.load.confidence[i], own.load.live[i]]));
    }
    if (own.confidence) histogram("Confidence of the router", "Largest probability of each token.", own.confidence, "confidence", "tokens");
    if (own.domains) {
      const d = own.domains;
      add("Where each domain goes", say("domains"), (e) => heat(e, {
        z: d.share, rows: d.labels, columns: range(d.share[0] ? d.share[0].length : 0), x: "expert", y: "", largest: Math.max(...known(d.share.flat()), 0),
        say: (i, j) => plain(d.labels[i]) + ", expert " + j + ": <b>" + percent(d.share[i][j]) + "</b>"
      }), ["domain", "documents", ...range(d.share[0].length).map((i) => "expert " + i)], d.labels.map((label, i) => [label, d.documents[i], ...d.share[i]]));
    }
    similarities();
    if (own.overlap && own.overlap.matrix && own.overlap.matrix.length > 1) square("Overlap of supports", "Chosen expert (down), another (across): share of the chosen one's active directions that the other has, too. " + say("overlap"), own.overlap.matrix, Math.max(...known(own.overlap.matrix.flat()), 0.01), "expert");
    if (own.tsne) {
      for (const which of ["decoder", "encoder"]) {
        add("t-SNE of " + which + " rows", own.tsne.latents.length.toLocaleString("en") + " live latents, coloured by " + word + "; perplexity " + saeworks.number(own.tsne.perplexity) + ".", cloud(own.tsne, which, word),
          ["latent", word, "x", "y"], own.tsne.latents.map((l, i) => [String(l), String(own.tsne.expert[i]), ...own.tsne[which][i]]));
      }
    }
    if (own.duplicates) duplicates();
    if (own.nearest) histogram("Nearest neighbour", "Cosine of each live latent's decoder row with the nearest other.", own.nearest, "cosine", "latents");
    if (own.queen) queen();
    return found;

    function square(title, about, values, largest, own) {
      add(title, about, matrix(values, largest, own), [own, ...range(values.length).map(String)], values.map((row, i) => [String(i), ...row]));
    }

    function histogram(title, about, h, x, y) {
      const chart = { x: { title: x }, y: { title: y, zero: true }, series: [{ name: title, kind: "steps", suite: 0, x: h.edges, y: [...h.counts, h.counts[h.counts.length - 1]] }] };
      add(title, about, (e) => saeworks.draw(e, chart), ["from", "to", y], h.counts.map((c, i) => [h.edges[i], h.edges[i + 1], c]));
    }

    function similarities() {
      const s = own.similarity;
      if (!s || !s.matrix) return;
      const other = beside && beside.similarity && beside.similarity.matrix ? beside.similarity : null;
      const largest = Math.max(...known([s.matrix, s.control || [], other ? other.matrix : []].flat(2)), 0.01);
      square("Similarity between " + word + "s", "Mean over the latents of one (down) of the largest cosine in another (across). " + say("similarity"), s.matrix, largest, word);
      if (s.control) square("The same, latents shuffled", "The same live latents dealt at random over " + word + "s of the same sizes: what sizes alone would give.", s.control, largest, word);
      if (other) square("The same, without experts", names[own.beside] + ", cut into " + other.blocks + " blocks of neighbouring latents.", other.matrix, largest, "block");
    }

    function duplicates() {
      const lines = [["this SAE", own.duplicates.shares, 0], ["random directions", own.duplicates.random, 6]];
      if (beside && beside.duplicates) lines.splice(1, 0, [names[own.beside], beside.duplicates.shares, 1]);
      const x = own.duplicates.thresholds;
      const chart = { x: { title: "cosine above" }, y: { zero: true }, series: lines.map(([name, y, suite], i) => ({ name, kind: "both", suite, shape: i, x, y })) };
      add("Duplicates by threshold", say("duplicates"), (e) => saeworks.draw(e, chart), ["cosine above", ...lines.map((l) => l[0])], x.map((t, i) => [t, ...lines.map((l) => l[1][i])]), chart.series);
    }

    function queen() {
      const q = own.queen;
      const chart = { x: { title: "φ above" }, y: { zero: true, range: [0, 1.02] }, series: [{ name: "coded by different latents", kind: "both", suite: 0, x: q.thresholds, y: q.queen }] };
      add("Concepts coded differently", say("queen") + " By how well a latent must fit a concept (φ).", (e) => saeworks.draw(e, chart), ["φ above", "coded differently", "concepts coded"], q.thresholds.map((t, i) => [t, q.queen[i], q.coded[i]]));
    }
  }

  function concepts(parent, own) {
    if (!own.concepts) return;
    const rows = own.concepts.map((c) => [c.concept + " = " + c.value, c.places, c.coded.map((l) => l.expert + ": " + l.latent + " (" + saeworks.number(l.phi) + ")").join(", ") || "–", c.cosine]);
    table(parent, "Known concepts: experts that could code each, and those that do, with the latent and its φ", ["concept", "experts", "coded by", "mean cosine"], rows);
  }

  const detail = document.getElementById("experts-controls");
  const box = document.getElementById("experts-figures");
  const numbers = document.getElementById("experts-numbers");
  let shown = [];

  async function show() {
    const site = detail.elements.site.value;
    const suite = detail.elements.suite.value;
    const own = await saeworks.load("experts-" + suite + "-" + site);
    const beside = own && own.beside !== null ? await saeworks.load("experts-" + own.beside + "-" + site) : null;
    if (detail.elements.site.value !== site || detail.elements.suite.value !== suite) return; // chosen anew meanwhile
    box.querySelectorAll(".plot").forEach(saeworks.forget);
    box.replaceChildren();
    shown = own ? parts(own, beside, saeworks.data.suites) : [];
    if (!shown.length) box.textContent = "Nothing was measured for this choice.";
    for (const part of shown) {
      const figure = make("figure", "", box);
      const caption = make("figcaption", "", figure);
      make("h3", part.title, caption);
      make("p", part.about, caption);
      if (part.legend) {
        part.key = make("div", "", caption);
        part.key.className = "legend";
        saeworks.legend(part.key, part.legend);
      }
      part.element = make("div", "", figure);
      part.element.className = "plot";
      part.element.setAttribute("role", "img");
      part.element.setAttribute("aria-label", part.title + ": a chart; its numbers are in the tables below. " + part.about);
      near.observe(part.element);
    }
    tables(own);
  }

  /* What is out of sight is not drawn until it comes near. */
  const near = new IntersectionObserver(function (entries) {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      const part = shown.find((one) => one.element === entry.target);
      if (part) part.draw(part.element);
    }
  }, { rootMargin: "600px" });

  function tables(own) {
    const body = numbers.lastElementChild;
    body.replaceChildren();
    numbers.ontoggle = function () {
      if (!numbers.open || body.childElementCount) return;
      for (const part of shown) table(body, part.title, part.head, part.rows);
      if (own) concepts(body, own);
    };
    numbers.ontoggle();
  }

  const grid = document.getElementById("duplicates-controls");

  function showDuplicates() {
    const all = saeworks.data.duplicates;
    const site = Number(grid.elements.site.value);
    const at = Number(grid.elements.threshold.value);
    const z = all.rows.map(() => all.columns.map(() => null));
    for (const [row, column, where, shares] of all.cells) if (where === site) z[row][column] = shares[at];
    const element = document.getElementById("duplicates-map");
    element.style.height = 110 + (element.clientWidth < 560 ? 52 : 34) * all.rows.length + "px";
    if (element.offsetParent) heat(element, { // folded, it has no width yet
      z, rows: all.rows, columns: all.columns, x: "k", y: "", largest: Math.max(...known(z.flat()), 0.001),
      say: (i, j) => plain(all.rows[i]) + ", k " + all.columns[j] + ": <b>" + percent(z[i][j]) + "</b>", inside: z.map((row) => row.map((v) => (v === null ? "" : percent(v))))
    });
    const body = document.getElementById("duplicates-table");
    body.replaceChildren();
    table(body, "Share of live latents with a neighbour at a cosine above " + all.thresholds[at] + ", at " + saeworks.data.sites[site], ["SAE", ...all.columns.map((k) => "k " + k)], all.rows.map((row, i) => [row, ...z[i].map((v) => (v === null ? "–" : percent(v)))]));
  }

  for (const [form, draw] of [[detail, show], [grid, showDuplicates]]) {
    if (!form) continue;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", draw);
    draw();
  }
  if (grid) grid.closest("details").addEventListener("toggle", showDuplicates);
  saeworks.onTheme(function () {
    if (grid) showDuplicates();
    for (const part of shown) if (part.element.querySelector(".main-svg")) part.draw(part.element);
  });
  window.addEventListener("beforeprint", () => shown.forEach((part) => part.draw(part.element)));
})();
