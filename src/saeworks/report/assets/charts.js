/* Charts by the page's theme. */
/* global Plotly, saeworks */
"use strict";

Object.assign(saeworks, (function () {
  const { data, number, style } = saeworks;
  const shapes = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon"];
  const signs = ["●", "■", "◆", "▲", "✚", "✖", "★", "⬟"];
  const viridis = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [220, 227, 25]];
  const NAMED = 40; // categories on an axis that are all named
  const drawn = new Map(); // element → its chart, to draw again when the theme changes
  const legends = new Map();

  /* Plotly reads a little HTML in its labels; names are to be shown, not read. */
  function plain(text) {
    return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function colour(series) {
    if (series.site === undefined && series.shade === undefined) return style("--c" + series.suite % 8);
    const share = series.shade !== undefined ? series.shade : data.sites.length > 1 ? series.site / (data.sites.length - 1) : 0.5;
    const place = (saeworks.dark() ? 0.3 + 0.7 * share : 0.86 * share) * (viridis.length - 1);
    const from = Math.min(Math.floor(place), viridis.length - 2);
    const part = viridis[from].map((c, i) => Math.round(c + (viridis[from + 1][i] - c) * (place - from)));
    return "rgb(" + part.join(",") + ")";
  }

  function hover(series, i, chart) {
    const end = series.low && series.low[i] !== null ? " (" + number(series.low[i]) + " to " + number(series.high[i]) + ")" : "";
    const place = series.text ? series.text[i] : number(series.x[i]) + " " + (chart.x.title || "");
    return plain(series.name) + "<br>" + plain(place) + ": <b>" + number(series.y[i]) + "</b>" + end;
  }

  function trace(series, chart) {
    const ink = colour(series);
    const steps = series.kind === "steps";
    const out = {
      type: "scatter", x: series.x, y: series.y, name: plain(series.name),
      mode: { both: "lines+markers", points: "markers" }[series.kind] || "lines",
      line: { color: ink, width: 1.8, shape: steps ? "hv" : "linear" },
      marker: { color: ink, size: series.size || 7, symbol: shapes[(series.shape || 0) % shapes.length] },
      text: series.x.map((_, i) => hover(series, i, chart)), hovertemplate: "%{text}<extra></extra>"
    };
    if (series.kind === "bars") Object.assign(out, { type: "bar", marker: { color: ink }, textposition: "none" });
    if (series.kind === "whiskers") Object.assign(out, { mode: "markers", marker: { opacity: 0 }, hoverinfo: "skip", hovertemplate: null });
    if (steps && chart.series.length === 1) Object.assign(out, { fill: "tozeroy", fillcolor: ink.replace(/^#(..)(..)(..)$/, (_, r, g, b) => "rgba(" + [r, g, b].map((c) => parseInt(c, 16)) + ",0.18)") });
    if (series.low && series.low.some((v) => v !== null)) {
      out.error_y = {
        type: "data", symmetric: false, thickness: 1.3, width: 3, color: ["bars", "whiskers"].includes(series.kind) ? style("--text") : ink,
        array: series.y.map((y, i) => (series.high[i] === null ? 0 : Math.max(0, series.high[i] - y))),
        arrayminus: series.y.map((y, i) => (series.low[i] === null ? 0 : Math.max(0, y - series.low[i])))
      };
    }
    return out;
  }

  function axis(spec, values) {
    const out = {
      gridcolor: style("--grid"), zerolinecolor: style("--line"), linecolor: style("--line"),
      title: { text: plain(spec.title || ""), standoff: 6 }, automargin: true, fixedrange: true, nticks: 6
    };
    if (spec.ticks) Object.assign(out, { tickvals: spec.ticks.values, ticktext: spec.ticks.text.map(plain) });
    const names = [...new Set(values)].filter((v) => typeof v === "string");
    if (!spec.ticks && names.length && names.length <= NAMED) out.tickvals = names;
    if (spec.angle) out.tickangle = spec.angle;
    if (spec.whole && new Set(values).size <= 12) out.tickvals = [...new Set(values)];
    if (spec.zero && !spec.log) out.rangemode = "tozero";
    if (spec.range) out.range = spec.range;
    if (spec.log) Object.assign(out, { type: "log" }, logTicks(values, spec.own));
    else if (spec.own && !spec.ticks && new Set(values).size === 1) out.tickvals = [values[0]];
    out.exponentformat = values.some((v) => Math.abs(v) >= 1000) ? "SI" : "e";
    return out;
  }

  /* Plotly labels a short logarithmic axis with lone digits, or not at all; these are round
     numbers, or, where they are few and asked for, the values themselves. */
  function logTicks(values, own) {
    const known = values.filter((v) => v > 0);
    if (!known.length) return {};
    const low = Math.min(...known), high = Math.max(...known);
    if (low === high || (own && new Set(known).size <= 4)) {
      const kept = apart(known);
      return { tickvals: kept, ticktext: kept.map((t) => (t >= 1e4 ? short(Number(t.toPrecision(3))) : number(t))) };
    }
    const kept = high / low < 5 ? even(low, high) : decades(low, high);
    return { tickvals: kept, ticktext: kept.map(short) };
  }

  /* Some equal steps of a round size, for an axis that is hardly curved. */
  function even(low, high) {
    const least = (high - low) / 5;
    const size = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].map((m) => m * size).find((s) => s >= least);
    const ticks = [];
    for (let i = Math.floor(low / step); i <= Math.ceil(high / step); i += 1) if (i > 0) ticks.push(Number((i * step).toPrecision(6)));
    return ticks;
  }

  function decades(low, high) {
    const wide = Math.log10(high / low);
    const stride = Math.ceil(wide / 6);
    const ticks = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) {
      if (e % stride) continue;
      for (const m of wide > 2.5 ? [1] : wide > 1.4 ? [1, 3] : [1, 2, 5]) ticks.push(Number((m * 10 ** e).toPrecision(2)));
    }
    return ticks;
  }

  /* The values whose labels on a logarithmic axis do not run into one another. */
  function apart(values) {
    const sorted = [...new Set(values)].sort((a, b) => a - b);
    const least = 0.12 * Math.log(sorted[sorted.length - 1] / sorted[0]);
    let last = -Infinity;
    return sorted.filter((v) => {
      const kept = Math.log(v) - last >= least;
      if (kept) last = Math.log(v);
      return kept;
    });
  }

  function short(t) {
    return t >= 1e9 ? t / 1e9 + "G" : t >= 1e6 ? t / 1e6 + "M" : t >= 1e4 ? t / 1e3 + "k" : t >= 1e-4 ? String(t) : t.toExponential(0);
  }

  function draw(element, chart) {
    drawn.set(element, chart);
    const all = (...keys) => chart.series.flatMap((s) => keys.flatMap((key) => s[key] || [])).filter((v) => v !== null);
    const layout = {
      margin: { l: 44, r: 10, t: 8, b: 40 }, showlegend: false, barmode: chart.stack ? "relative" : "group", bargap: 0.25, hovermode: "closest", dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--sans"), size: 12, color: style("--quiet") },
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--text"), size: 13 } },
      xaxis: axis(Object.assign({ own: true }, chart.x), all("x")), yaxis: axis(Object.assign({}, chart.y, { title: "" }), all("y", "low", "high"))
    };
    return Plotly.react(element, chart.series.map((s) => trace(s, chart)), layout, { displayModeBar: false, responsive: true });
  }

  function legend(element, series) {
    legends.set(element, series);
    const names = new Map(series.map((s) => [s.name, s]));
    element.replaceChildren(...(names.size < 2 ? [] : [...names.values()].map(function (s) {
      const item = document.createElement("span");
      const sign = document.createElement("span");
      sign.textContent = (["both", "points"].includes(s.kind) ? signs[(s.shape || 0) % signs.length] : "●") + " ";
      sign.style.color = colour(s);
      item.append(sign, s.name);
      return item;
    })));
  }

  /* What is out of sight is not drawn until it comes near. */
  const near = new IntersectionObserver(function (entries) {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target, entry.target.chart);
    }
  }, { rootMargin: "600px" });

  function drawWhenNear(element, chart) {
    element.chart = chart;
    near.observe(element);
  }

  function forget(element) {
    near.unobserve(element);
    drawn.delete(element);
    Plotly.purge(element);
  }

  for (const element of document.querySelectorAll("[data-chart]")) {
    drawWhenNear(element, data[element.dataset.chart][Number(element.dataset.index)]);
  }
  for (const element of document.querySelectorAll("[data-legend]")) {
    const { legend: group, index } = element.dataset; // of one chart, or of all in a group
    legend(element, data[group].filter((_, i) => index === undefined || i === Number(index)).flatMap((chart) => chart.series));
  }
  /* Of many suites, those of one line at a time: its own colours tell them apart. */
  function showLine(select) {
    const group = select.dataset.lines;
    const own = data.lines[Number(select.value)].suites;
    const chosen = (series) => series.filter((s) => own.includes(s.suite))
      .map((s) => Object.assign({}, s, { suite: own.indexOf(s.suite), shape: own.indexOf(s.suite) }));
    for (const element of document.querySelectorAll("[data-chart=" + group + "]")) {
      const chart = data[group][Number(element.dataset.index)];
      element.chart = Object.assign({}, chart, { series: chosen(chart.series) });
      if (drawn.has(element)) draw(element, element.chart);
    }
    legend(document.querySelector("[data-legend=" + group + "]"), chosen(data[group].flatMap((chart) => chart.series)));
  }

  function showPanel(select) {
    for (const figure of select.closest("section").querySelectorAll("[data-panel]")) figure.hidden = figure.dataset.panel !== select.value;
  }

  for (const [attribute, show] of [["[data-lines]", showLine], ["[data-panels]", showPanel]]) {
    for (const select of document.querySelectorAll(attribute)) {
      select.form.addEventListener("submit", (event) => event.preventDefault());
      select.addEventListener("change", () => show(select));
      show(select);
    }
  }
  saeworks.onTheme(function () {
    for (const [element, chart] of drawn) draw(element, chart);
    for (const [element, series] of legends) legend(element, series);
  });
  window.addEventListener("beforeprint", function () {
    for (const element of document.querySelectorAll(".plot")) if (element.chart && element.offsetParent) draw(element, element.chart);
  });

  return { plain, draw, drawWhenNear, forget, legend };
})());
