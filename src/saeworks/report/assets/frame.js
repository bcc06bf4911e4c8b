/* What every page's scripts share: its data, its theme, the loading of data files. */
"use strict";

var saeworks = (function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const listeners = [];
  const waiting = {};

  /* A file on disk can be had by a script element alone: no fetch on file://. */
  function fetchFile(name, kept) {
    if (waiting[name]) return waiting[name].promise;
    waiting[name] = {};
    waiting[name].promise = new Promise(function (resolve, reject) {
      const script = document.createElement("script");
      const end = function (finish) {
        script.remove();
        if (!kept) delete waiting[name];
        finish();
      };
      waiting[name].receive = (value) => end(() => resolve(value));
      script.onerror = () => end(() => reject(new Error("data/" + name + ".js is missing")));
      script.src = "data/" + name + ".js";
      document.head.append(script);
    });
    return waiting[name].promise;
  }

  function load(name) {
    return data.files.includes(name) ? fetchFile(name, true) : Promise.resolve(null);
  }

  /* A numbered part of a file that is too long to be loaded, and to be kept, as one. */
  function loadPart(name, number) {
    return fetchFile(name + "-" + number, false);
  }

  /* What a data file says; that of all pages, report.js, comes without being asked for. */
  function receive(name, value) {
    if (name === "report") Object.assign(data, value);
    else if (waiting[name]) waiting[name].receive(value);
  }

  function number(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6) return number(value / 1e6) + "M";
    const text = Number.isInteger(value) || size >= 100 ? Math.round(value).toLocaleString("en") : size >= 1e-3 ? value.toPrecision(3) : value.toExponential(1);
    return text.replace(/-/g, "−");
  }

  function dark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  }

  /* A colour of the style sheet, as it is in the present theme. */
  function style(name) {
    const value = getComputedStyle(root).getPropertyValue(name).trim();
    const both = /^light-dark\((.*?), (.*)\)$/.exec(value);
    return both ? both[dark() ? 2 : 1] : value;
  }

  /* Calls a function whenever the theme has changed. */
  function onTheme(listener) {
    listeners.push(listener);
  }

  /* Chooses "light", "dark" or, if it is empty, what the system says. */
  function setTheme(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    tell();
  }

  let told = dark();
  function tell() {
    if (told === dark()) return;
    told = dark();
    for (const listener of listeners) listener();
  }

  system.addEventListener("change", tell);

  return { data, load, loadPart, receive, number, dark, style, onTheme, setTheme };
})();
