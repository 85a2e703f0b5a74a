"use strict";
// Before anything is drawn: the theme a person chose for these pages, else the system's.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const chosen = () => { try { return localStorage.getItem("kronfx-theme"); } catch { return null; } };
  const follow = () => { root.dataset.theme = chosen() || (dark.matches ? "dark" : "light"); };
  dark.addEventListener("change", follow);
  follow();
})();
