// What tests/browser.py asks a page: each function returns a list of complaints, empty on a page as it should be.
window.look = (() => {
  const all = (selector, root = document) => [...(root?.querySelectorAll(selector) ?? [])];
  const brief = (text) => text.trim().replace(/\s+/g, " ").slice(0, 80);
  const box = (element) => element.getBoundingClientRect();
  const seen = (element) =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && box(element).width > 1;

  // Bytes of the page and all it has loaded so far.
  const weight = () =>
    ["navigation", "resource"]
      .flatMap((kind) => performance.getEntriesByType(kind))
      .reduce((sum, entry) => sum + entry.encodedBodySize, 0);

  const RAW = /\\[()[\]]|\$\$|\$[^$\n]*\\[a-z]+[^$\n]*\$|\\begin\{/;
  const NOT_PROSE = "script, style, pre, code, template, textarea, mjx-container";

  function maths() {
    const lost = all(".math").filter((e) => !e.querySelector("mjx-container"));
    const wrong = all("mjx-merror, [data-mjx-error]");
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const raw = [];
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (RAW.test(text.data) && !text.parentElement.closest(NOT_PROSE)) raw.push(`raw: ${brief(text.data)}`);
    }
    return [
      ...lost.map((e) => `not rendered: ${brief(e.textContent)}`),
      ...wrong.map((e) => `an error: ${brief(e.textContent)}`),
      ...raw,
    ];
  }

  function width() {
    const root = document.scrollingElement;
    if (root.scrollWidth <= root.clientWidth) return [];
    const shut = (e) => getComputedStyle(e).overflowX !== "visible";
    const boxed = (e) => e !== document.body && (shut(e) || boxed(e.parentElement));
    const wide = (e) => box(e).right > root.clientWidth + 1 && !boxed(e.parentElement);
    const out = all("*", document.body).filter(wide);
    const inner = out.filter((e) => !out.some((other) => other !== e && e.contains(other)));
    const named = inner.slice(0, 3).map((e) => brief(e.outerHTML));
    return [`${root.scrollWidth} px wide in ${root.clientWidth}: ${named.join(" ")}`];
  }

  // Figures are drawn on white, and stay on white in the dark scheme.
  const dark = () =>
    all(".bd-article figure img, .cell_output img")
      .filter((e) => seen(e) && getComputedStyle(e).backgroundColor !== "rgb(255, 255, 255)")
      .map((e) => `no white card: ${brief(e.alt || e.src)}`);

  const CONTROLS = "input, button, select, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article";

  function paper() {
    const hidden = (e) => seen(e) && [...e.children].slice(1).some((child) => !child.checkVisibility());
    return [
      ...all(CONTROLS).filter(seen).map((e) => `a control: ${brief(e.outerHTML)}`),
      ...all("main details").filter(hidden).map((e) => `left out: ${brief(e.textContent)}`),
    ];
  }

  // The page without its scripts.
  function still() {
    const main = document.querySelector("main");
    const empty = (e) => !e.complete || !e.naturalWidth;
    return [
      ...((main?.innerText ?? "").trim().length < 40 ? ["no text"] : []),
      ...all("img", main).filter(empty).map((e) => `no picture: ${brief(e.alt || e.src)}`),
      ...all("input[type=range]", main).filter(seen).map((e) => `a dead control: ${brief(e.outerHTML)}`),
    ];
  }

  // axe's time grows faster than the page: of formulas and of colours in code it sees one of each kind.
  function thin() {
    const kind = (e) => [e.className, getComputedStyle(e.parentElement).color, !e.closest(".cell_output")].join();
    const kinds = new Set();
    const again = all("div.highlight pre span").filter((e) => kinds.has(kind(e)) || !kinds.add(kind(e)));
    const formulas = all("mjx-container").slice(1).map((e) => [e, box(e)]);
    again.forEach((e) => e.replaceWith(...e.childNodes));
    all("div.highlight pre").forEach((e) => e.normalize());
    for (const [formula, { width, height }] of formulas) {
      const room = document.createElement("span");
      room.style.cssText = `display: inline-block; width: ${width}px; height: ${height}px`;
      room.textContent = "x";
      formula.replaceChildren(room);
    }
  }

  // Elements of each ink, ground and size, marked: contrast is the same wherever they meet again.
  function inks() {
    const grounds = (e) => {
      if (!e) return "";
      const { backgroundColor, backgroundImage, opacity } = getComputedStyle(e);
      const solid = backgroundColor.startsWith("rgb(") && opacity === "1";
      return [backgroundColor, backgroundImage, opacity, solid ? "" : grounds(e.parentElement)].join();
    };
    const ink = (e) => {
      const { color, fontSize, fontWeight } = getComputedStyle(e);
      return [color, fontSize, fontWeight, grounds(e)].join("|");
    };
    const written = (e) => [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const texts = all("body *").filter((e) => written(e) && seen(e)).map((e) => [ink(e), e]);
    const found = [...new Map(texts).values(), ...new Map(texts.reverse()).values()]; // the last and the first
    all("[data-ink]").forEach((e) => delete e.dataset.ink);
    found.forEach((e) => (e.dataset.ink = ""));
  }

  const scheme = (name) => Object.assign(document.documentElement.dataset, { mode: name, theme: name });

  return { weight, maths, width, dark, paper, still, thin, inks, scheme, seen };
})();
