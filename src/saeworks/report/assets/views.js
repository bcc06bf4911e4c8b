/* Views of a section that a script of their own draws. Such a script calls
   saeworks.view(NAME, draw); draw(element, record, page) fills the element with what the record of
   the chosen suite and site says, when it comes near, and again when another is chosen or the
   theme changes. page is {suite, site, narrow, latent(site, number)}: the suite's number, the
   site's name, whether the page is narrow, and a latent's address in the browser of latents, null
   where it has no page there. The page's address says which suite and site a view shows:
   #SECTION/SUITE/SITE. */
/* global saeworks */
"use strict";

saeworks.view = function (name, draw) {
  const chosen = (box, key) => {
    const select = box.querySelector("[name=" + key + "]");
    return select ? select.value : box.querySelector(".drawing").dataset[key];
  };

  function start(box) {
    const drawing = box.querySelector(".drawing");
    let asked = 0;

    async function show() {
      const turn = ++asked;
      const suite = Number(chosen(box, "suite")), site = chosen(box, "site");
      const select = box.querySelector("[name=site]");
      const named = select ? select.selectedOptions[0].textContent : drawing.dataset.name;
      let record;
      try {
        record = await saeworks.load(box.dataset.prefix + "-" + suite + "-" + site);
      } catch (error) {
        if (turn === asked) drawing.textContent = error.message + ": copy the report's whole folder, or write it again with `saeworks report`.";
        return;
      }
      if (turn !== asked) return;
      if (record === null) drawing.textContent = "Not measured of this suite here.";
      else draw(drawing, record, { suite, site: named, narrow: drawing.clientWidth < 600, latent: (at, number) => saeworks.latentAddress(suite, at, number) });
    }

    /* As the address says, where it is of this view. */
    function follow() {
      const place = /^#(.*)\/(\d+)\/(\d+)$/.exec(location.hash);
      if (!place || place[1] !== section) return false;
      ["suite", "site"].forEach(function (key, i) {
        const select = box.querySelector("[name=" + key + "]");
        if (select && [...select.options].some((option) => option.value === place[i + 2])) select.value = place[i + 2];
      });
      box.scrollIntoView();
      return true;
    }

    const section = encodeURIComponent(box.closest("section").id);
    const near = new IntersectionObserver(function (entries) {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      show();
      saeworks.onTheme(show);
    }, { rootMargin: "600px" });
    near.observe(drawing);
    box.querySelector("form").addEventListener("change", function () {
      history.replaceState(null, "", "#" + section + "/" + chosen(box, "suite") + "/" + chosen(box, "site"));
      show();
    });
    window.addEventListener("hashchange", () => { if (follow()) show(); });
    follow();
    box.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  }

  document.querySelectorAll(".view[data-view=" + name + "]").forEach(start);
};

/* A latent's address in the browser of latents; null of a site whose latents are not there. */
saeworks.latentAddress = function (suite, site, number) {
  const at = saeworks.data.sites.indexOf(site);
  return saeworks.data.files.includes("latents-" + suite + "-" + at) ? "latents.html#" + suite + "/" + at + "/" + number : null;
};
