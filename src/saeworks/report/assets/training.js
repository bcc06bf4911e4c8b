/* Training curves of the chosen suite and site. */
"use strict";

(function () {
  const section = document.getElementById("training");
  if (!section) return;
  const form = section.querySelector("form");
  const box = document.getElementById("training-figures");
  const titles = {
    fvu: "FVU", l0: "L0", dead: "Dead share", lr: "Learning rate", tokens_per_second: "Tokens per second", delta_ce: "ΔCE"
  };
  const units = {
    fvu: "of each batch; points: held out", l0: "active latents per token", delta_ce: "nats, held out"
  };

  function axis() {
    return form.elements.against.value;
  }

  /* [[panel, suite, site, series]] of all that is chosen. */
  function curves(loaded, suites, sites) {
    const out = [];
    suites.forEach(function (suite, i) {
      for (const site of sites) {
        const groups = loaded[i] && loaded[i][saeworks.data.sites[site]];
        for (const group of groups ? ["train", "held_out"] : []) {
          for (const [name, y] of Object.entries(groups[group])) {
            const x = groups[group][axis()];
            if (x && name !== "tokens" && name !== "flops") out.push({ panel: name === "held_out_fvu" ? "fvu" : name, suite, site, held: group === "held_out", x, y });
          }
        }
      }
    });
    return out;
  }

  function series(curve, bySite, panel) {
    const name = bySite ? saeworks.data.sites[curve.site] : saeworks.data.suites[curve.suite];
    const kind = !curve.held ? "line" : panel === "fvu" ? "points" : "both";
    const base = { name, x: curve.x, y: curve.y, kind, shape: curve.held && bySite ? 0 : curve.suite };
    return Object.assign(base, bySite ? { site: curve.site } : { suite: curve.suite });
  }

  function figure(panel, unit) {
    const element = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const title = document.createElement("h3");
    const plot = document.createElement("div");
    const small = document.createElement("small");
    title.textContent = (titles[panel] || panel.replace(/^loss: /, "Loss: ")) + " ";
    small.textContent = unit || "";
    title.append(small);
    caption.append(title);
    plot.className = "plot";
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", title.textContent + " during training");
    element.append(caption, plot);
    box.append(element);
    return plot;
  }

  function rank(panel) {
    const place = ["fvu", "loss", "delta_ce", "l0", "dead", "lr"].indexOf(panel.split(":")[0]);
    return place < 0 ? 9 : place;
  }

  /* Of L0 that a k fixes and of dead shares of 0, what there is to say. */
  function nothingToSee(panel, curves) {
    const values = curves.flat();
    if (panel === "dead" && values.every((v) => v === 0)) return "0 throughout";
    const fixed = (y) => y.every((v) => Math.abs(v - Math.round(y[0])) <= 0.01 * Math.round(y[0]));
    if (panel !== "l0" || !curves.every(fixed)) return "";
    return [...new Set(curves.map((y) => Math.round(y[0])))].sort((a, b) => a - b).join(" or ") + " throughout";
  }

  /* Of all suites one site at a time: their colours tell suites apart, not sites. */
  function oneSite() {
    const every = form.elements.site.querySelector("[value=all]");
    every.disabled = Boolean(form.elements.suite) && form.elements.suite.value === "all" && saeworks.data.sites.length > 1;
    if (every.disabled && form.elements.site.value === "all") form.elements.site.value = saeworks.data.sites.length - 1;
  }

  let asked = 0;

  async function show() {
    const turn = ++asked;
    oneSite();
    const suite = form.elements.suite ? form.elements.suite.value : "0";
    const site = form.elements.site.value;
    const all = (list) => list.map((_, i) => i);
    const suites = suite === "all" ? all(saeworks.data.suites) : [Number(suite)];
    const sites = site === "all" ? all(saeworks.data.sites) : [Number(site)];
    const loaded = await Promise.all(suites.map((s) => saeworks.load("training-" + s)));
    if (turn !== asked) return; // chosen anew meanwhile
    const found = curves(loaded, suites, sites);
    const bySite = suites.length === 1;
    box.querySelectorAll(".plot").forEach(saeworks.forget);
    box.replaceChildren();
    const panels = [...new Set(found.map((c) => c.panel))].sort((a, b) => rank(a) - rank(b));
    const left = [];
    for (const panel of panels) {
      const curves = found.filter((c) => c.panel === panel);
      const same = nothingToSee(panel, curves.map((c) => c.y.filter((v) => v !== null)));
      if (same) {
        left.push(titles[panel] + " (" + same + ")");
        continue;
      }
      const own = curves.map((c) => series(c, bySite, panel));
      const log = form.elements.log.checked && (panel === "fvu" || panel.startsWith("loss")) && own.every((s) => s.y.every((v) => v === null || v > 0));
      saeworks.drawWhenNear(figure(panel, units[panel]), { x: { title: axis() === "flops" ? "FLOPs of the SAE's training" : "tokens" }, y: { log, zero: true }, series: own });
    }
    if (!panels.length) box.textContent = "Nothing was logged for this choice.";
    section.querySelector(".left-out").textContent = left.length ? "Not drawn, since it does not change: " + left.join(", ") + "." : "";
    saeworks.legend(document.getElementById("training-legend"), found.map((c) => series(c, bySite, c.panel)).filter((s) => s.kind === "line"));
  }

  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
