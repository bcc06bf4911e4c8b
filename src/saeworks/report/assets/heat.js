/* Heat maps of distances between sites, with the chosen groups outlined. */
/* global Plotly, saeworks */
"use strict";

(function () {
  const { plain, style } = saeworks;
  const sites = saeworks.data.sites;
  const short = saeworks.data.short;

  function hover(map, row, column) {
    const error = map.stderr[row][column];
    const text = plain(sites[row]) + " and " + plain(sites[column]) + ": <b>" + saeworks.number(map.values[row][column]) + "</b>";
    return error === null || row === column ? text : text + " ± " + saeworks.number(error);
  }

  function draw(element) {
    const map = saeworks.data.heat[Number(element.dataset.heat)];
    const places = sites.map((_, i) => i);
    const ticks = { tickvals: places, ticktext: short.map(plain), fixedrange: true, showgrid: false, zeroline: false, ticks: "", automargin: true };
    const outline = { color: style("--c1"), width: 2.5 };
    const trace = {
      type: "heatmap", x: places, y: places, z: map.values, zmin: 0, zmax: map.largest || 1, colorscale: "Viridis", reversescale: true,
      xgap: 1, ygap: 1, text: map.values.map((row, i) => row.map((_, j) => hover(map, i, j))), hovertemplate: "%{text}<extra></extra>",
      colorbar: { thickness: 10, outlinewidth: 0, tickfont: { color: style("--quiet") }, nticks: 6 }
    };
    const layout = {
      margin: { l: 40, r: 10, t: 8, b: 36 }, dragmode: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--sans"), size: 12, color: style("--quiet") },
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--text"), size: 13 } },
      xaxis: Object.assign({ constrain: "domain" }, ticks),
      yaxis: Object.assign({ autorange: "reversed", scaleanchor: "x", constrain: "domain" }, ticks),
      shapes: map.boxes.map(([x, y, w, h]) => ({ type: "rect", x0: x - 0.5, x1: x + w - 0.5, y0: y - 0.5, y1: y + h - 0.5, line: outline }))
    };
    Plotly.react(element, [trace], layout, { displayModeBar: false, responsive: true });
  }

  const all = () => document.querySelectorAll("[data-heat]").forEach(draw);
  saeworks.onTheme(all);
  all();
})();
