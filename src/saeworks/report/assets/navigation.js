/* The frame of a page: the switch of the theme, the search, keys, folded parts that a link opens. */
/* global saeworks */
"use strict";

(function () {
  const THEMES = ["", "light", "dark"];
  const FOUND = 12; // results that the search shows
  const root = document.documentElement;

  const button = document.querySelector("button.theme");
  function tellTheme() {
    button.textContent = "Theme: " + (root.dataset.theme || "system");
  }
  button.hidden = false;
  tellTheme();
  button.addEventListener("click", function () {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme || "") + 1) % THEMES.length];
    saeworks.setTheme(next);
    tellTheme();
    try { localStorage.setItem("saeworks-theme", next); } catch (error) { /* as theme.js says */ }
  });

  /* Printed in light colours. */
  let before = "";
  window.addEventListener("beforeprint", function () {
    before = root.dataset.theme || "";
    saeworks.setTheme("light");
  });
  window.addEventListener("afterprint", () => saeworks.setTheme(before));

  const form = document.querySelector("form.search");
  if (form) search(form.elements.find, form.querySelector("ul"));

  /* Places whose title has every word; at last the text among the latents. */
  function found(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const places = saeworks.data.search.filter((place) => words.every((word) => (place[1] + " " + place[2]).toLowerCase().includes(word))).slice(0, FOUND);
    return saeworks.data.latents ? [...places, ["latents.html#?find=" + encodeURIComponent(text), "Latents with “" + text + "”", "Latents"]] : places;
  }

  function search(field, list) {
    function show() {
      list.replaceChildren(...found(field.value.trim()).map(function ([address, title, page]) {
        const item = document.createElement("li"), link = document.createElement("a"), small = document.createElement("small");
        link.href = address;
        small.textContent = page;
        link.append(title + " ", small);
        item.append(link);
        return item;
      }));
      list.hidden = !list.childElementCount;
    }

    function close() {
      list.hidden = true;
    }

    field.addEventListener("input", show);
    field.addEventListener("focus", show);
    form.addEventListener("submit", function (event) {
      event.preventDefault();
      const first = list.querySelector("a");
      if (first) first.click();
    });
    form.addEventListener("click", (event) => { if (event.target.closest("a")) close(); });
    form.addEventListener("focusout", (event) => { if (!form.contains(event.relatedTarget)) close(); });
    form.addEventListener("keydown", function (event) {
      const links = [...list.querySelectorAll("a")];
      const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") { field.focus(); close(); }
      if (!by || list.hidden) return;
      const next = links.indexOf(document.activeElement) + by;
      (next < 0 ? field : links[Math.min(next, links.length - 1)]).focus();
      event.preventDefault();
    });
  }

  /* The page so many places further on. */
  function turn(by) {
    const links = [...document.querySelectorAll("nav.pages > ol > li > a")];
    const next = links[links.findIndex((link) => link.getAttribute("aria-current")) + by];
    if (next) location.assign(next.href);
  }

  document.addEventListener("keydown", function (event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "[" || event.key === "]") turn(event.key === "]" ? 1 : -1);
    else if (event.key === "/") {
      const field = document.querySelector("main [type=search], .search [type=search]");
      if (!field) return;
      field.focus();
      event.preventDefault();
    }
  });

  /* What the address names; a broken one names nothing. `:target` is not known yet when a page is read. */
  function addressed() {
    try {
      return document.getElementById(decodeURIComponent(location.hash.slice(1)));
    } catch (error) {
      return null;
    }
  }

  /* A link into a folded part opens it. */
  function unfold() {
    const target = addressed();
    if (!target) return;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    const own = target.querySelector(":scope > details.chapter");
    if (own) own.open = true;
    const choices = target.dataset.panel === undefined ? [] : target.closest("section").querySelectorAll("[data-panels]");
    for (const select of choices) {
      select.value = target.dataset.panel;
      select.dispatchEvent(new Event("change", { bubbles: true }));
    }
    target.scrollIntoView();
  }

  window.addEventListener("hashchange", unfold);
  unfold();
})();
