/* What is wider than the page scrolls in a box of its own: the keyboard reaches that box, at every width. */
(() => {
  const BOXES =
    ".pst-scrollable-table-container, table, div.math, mjx-container[display='true'], p, .output";

  function mark() {
    for (const box of document.querySelectorAll(`.bd-article :is(${BOXES})`)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX === "auto";
      if (scrolls === "scrolls" in box.dataset) continue;
      if (scrolls) {
        box.tabIndex = 0;
        box.dataset.scrolls = "";
      } else {
        box.removeAttribute("tabindex");
        delete box.dataset.scrolls;
      }
    }
  }

  let soon = 0;
  const later = () => {
    clearTimeout(soon);
    soon = setTimeout(mark, 200);
  };

  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    new ResizeObserver(later).observe(document.body);
    mark();
  });
})();
