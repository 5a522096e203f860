/* For paper: what is folded is unfolded, and the page is printed in its light colours; afterwards all is as it was. */
(() => {
  let closed = [];
  let theme = null;

  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => (details.open = true));
    theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
  });

  window.addEventListener("afterprint", () => {
    closed.forEach((details) => (details.open = false));
    document.documentElement.dataset.theme = theme;
  });
})();
