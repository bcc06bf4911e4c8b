/* Heat maps of where the latents of a shared SAE fire, of one suite at a time. */
/* global Plotly, saeworks */
"use strict";

(function () {
  const { plain, style } = saeworks;
  const section = document.getElementById("spread");
  if (!section) return;
  const select = section.querySelector("select");
  const figures = document.getElementById("spread-figures");
  const percent = (share) => Math.round(100 * share) + "%";

  function draw(element, map) {
    const places = map.sites.map((_, i) => i);
    const rows = [0];
    for (const latents of map.latents) rows.push(rows[rows.length - 1] + latents);
    const text = map.share.map((row, i) => row.map((share, j) =>
      plain(map.sites[j]) + ": <b>" + percent(share) + "</b> of the firing of " +
      (map.latents[i] === 1 ? "the latent" : map.latents[i] + " latents") + " here"));
    const trace = {
      type: "heatmap", x: places, y: rows, z: map.share, zmin: 0, zmax: 1, colorscale: "Viridis", text,
      hovertemplate: "%{text}<extra></extra>",
      colorbar: { thickness: 10, outlinewidth: 0, tickformat: ".0%", tickfont: { color: style("--quiet") }, nticks: 6 }
    };
    const plainAxis = { fixedrange: true, showgrid: false, zeroline: false, ticks: "", automargin: true };
    const layout = {
      margin: { l: 44, r: 10, t: 8, b: 40 }, dragmode: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--sans"), size: 12, color: style("--quiet") },
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--text"), size: 13 } },
      xaxis: Object.assign({ tickvals: places, ticktext: map.short.map(plain), title: { text: "layer", standoff: 6 } }, plainAxis),
      yaxis: Object.assign({ autorange: "reversed", nticks: 5, title: { text: "latents", standoff: 6 } }, plainAxis)
    };
    Plotly.react(element, [trace], layout, { displayModeBar: false, responsive: true });
  }

  function make(tag, text, parent) {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  }

  function show() {
    for (const element of figures.querySelectorAll(".plot")) Plotly.purge(element);
    figures.replaceChildren();
    for (const map of saeworks.data.spread.filter((m) => m.suite === select.value)) {
      const figure = make("figure", "", figures);
      const caption = make("figcaption", "", figure);
      make("h3", map.group, caption);
      make("p", map.about, caption);
      const plot = make("div", "", figure);
      plot.className = "plot";
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", map.group + ": a heat map. " + map.about);
      plot.map = map;
      draw(plot, map);
    }
  }

  select.form.addEventListener("submit", (event) => event.preventDefault());
  select.addEventListener("change", show);
  saeworks.onTheme(() => figures.querySelectorAll(".plot").forEach((plot) => draw(plot, plot.map)));
  show();
})();
