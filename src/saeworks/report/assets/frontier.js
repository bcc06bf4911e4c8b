/* The frontier's charts against the cost that is chosen. */
/* global saeworks */
"use strict";

(function () {
  const section = document.getElementById("frontier");
  const select = section && section.querySelector("select[name=axis]");
  if (!select) return;

  function on(chart, axis) {
    const series = chart.series.map(function (one) {
      const kept = one.xs[axis.id].map((_, i) => i).filter((i) => one.xs[axis.id][i] !== null);
      const pick = (values) => kept.map((i) => values[i]);
      return Object.assign({}, one, { x: pick(one.xs[axis.id]), y: pick(one.y), low: pick(one.low), high: pick(one.high), text: pick(one.text) });
    });
    return Object.assign({}, chart, { x: axis, series });
  }

  function show() {
    for (const element of section.querySelectorAll("[data-chart=frontier]")) {
      const chart = saeworks.data.frontier[Number(element.dataset.index)];
      const axis = chart.axes.find((one) => one.id === select.value);
      element.closest("figure").classList.toggle("absent", !axis);
      if (!axis) continue;
      element.chart = on(chart, axis);
      if (element.querySelector(".main-svg")) saeworks.draw(element, element.chart);
    }
  }

  select.addEventListener("change", show);
  select.form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
