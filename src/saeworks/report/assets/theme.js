/* The theme that a reader chose, set before anything is drawn. */
"use strict";

try {
  const theme = localStorage.getItem("saeworks-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch (error) { /* a browser that keeps nothing for files follows the system */ }
