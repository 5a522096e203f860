// The form that filters the page of claims. Without this script the form stays hidden and every claim is shown.

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("claims-filter");
  if (!form) {
    return;
  }
  const main = form.closest("article") || document;
  const cards = [...main.querySelectorAll(".claim")].map((card) => ({
    card,
    text: `${card.textContent} ${card.className}`.toLowerCase(),
  }));
  const groups = [...new Set(cards.map(({ card }) => card.closest("section")))];
  const status = form.querySelector("[role=status]");
  const names = ["paper", "verdict", "chapter", "text"];

  function shown({ card, text }) {
    const chosen = ["paper", "verdict", "chapter"].map((name) => form[name].value).filter(Boolean);
    if (form.abstract.checked) {
      chosen.push("in-abstract");
    }
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    return chosen.every((name) => card.classList.contains(name)) && words.every((word) => text.includes(word));
  }

  function show() {
    const kept = cards.filter(shown);
    cards.forEach(({ card }) => (card.hidden = true));
    kept.forEach(({ card }) => (card.hidden = false));
    groups.forEach((group) => group.classList.toggle("claims-empty", !group.querySelector(".claim:not([hidden])")));
    status.textContent = `${kept.length} of ${cards.length} claims`;
  }

  // What is chosen stands in the address, so that a choice can be passed on.
  function remember() {
    const chosen = new URLSearchParams();
    names.filter((name) => form[name].value).forEach((name) => chosen.set(name, form[name].value));
    if (form.abstract.checked) {
      chosen.set("abstract", "yes");
    }
    const query = chosen.toString();
    try {
      history.replaceState(null, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`);
    } catch {
      // A page opened from a file may not write its address; the filter works all the same.
    }
  }

  // A link to a claim that is filtered out shows all claims again.
  function reveal() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const card = target && target.closest(".claim");
    if (card && card.hidden) {
      form.reset();
      show();
      card.scrollIntoView();
    }
  }

  const asked = new URLSearchParams(location.search);
  names.filter((name) => asked.has(name)).forEach((name) => (form[name].value = asked.get(name)));
  form.abstract.checked = asked.has("abstract");
  const change = () => {
    show();
    remember();
  };
  form.addEventListener("input", change);
  form.addEventListener("reset", () => setTimeout(change));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", reveal);
  form.hidden = false;
  show();
  reveal();
});
