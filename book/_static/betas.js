/* The calculator of the page on conventions of β. It reads the formulas out of the page's own tables. */
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.grae-betas");
  if (!form) return;

  /* A formula of numbers, names, *, / and **, such as "2 * beta / D". */
  function evaluate(formula, names) {
    const tokens = formula.match(/\*\*|[*/()]|[\d.]+|[A-Za-z]+/g);
    const take = () => tokens.shift();
    function atom() {
      const token = take();
      if (token === "(") {
        const inside = product();
        take();
        return inside;
      }
      return token in names ? names[token] : Number(token);
    }
    function power() {
      const base = atom();
      return tokens[0] === "**" ? (take(), base ** power()) : base;
    }
    function product() {
      let value = power();
      while (tokens[0] === "*" || tokens[0] === "/") value = take() === "*" ? value * power() : value / power();
      return value;
    }
    return product();
  }

  const tables = [...document.querySelectorAll("table")].filter((table) => /same β/.test(table.rows[0].textContent));
  const rows = tables.flatMap((table, part) =>
    [...table.tBodies[0].rows].map((row) => {
      const [, objective, weight] = [...row.cells].map((cell) => cell.textContent.trim());
      return { part, objective, weight, number: row.cells[0].textContent.trim() };
    }),
  );

  const { convention } = form.elements;
  rows.forEach(({ number, objective }, place) => convention.add(new Option(`${number}: ${objective}`, place)));

  /* w is in proportion to β, or to 1/β: its values at 1 and 2 say which. */
  function betaOf(weight, w, names) {
    const [one, two] = [1, 2].map((beta) => evaluate(weight, { ...names, beta }));
    return two > one ? w / one : one / w;
  }

  const written = (number) => String(Number(number.toPrecision(4)));

  function show() {
    const names = {};
    for (const name of ["w", "D", "d", "v", "s"]) names[name] = form.elements[name].valueAsNumber;
    const chosen = rows[convention.value];
    const beta = betaOf(chosen.weight, names.w, names);
    const result = form.querySelector(".grae-betas-result");
    result.replaceChildren();
    const line = document.createElement("p");
    result.append(line);
    if (!(Number.isFinite(beta) && beta > 0)) {
      line.textContent = "Every number should be positive.";
      return;
    }
    line.append("In this book: ", Object.assign(document.createElement("strong"), { textContent: `β = ${written(beta)}` }));
    line.append(". The same model in the other rows:");
    const list = document.createElement("ul");
    for (const row of rows.filter((other) => other !== chosen && other.part === chosen.part)) {
      const item = document.createElement("li");
      item.append(`w = ${written(evaluate(row.weight, { ...names, beta }))} in row ${row.number}, `);
      item.append(Object.assign(document.createElement("code"), { textContent: row.objective }));
      list.append(item);
    }
    result.append(list);
  }

  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
});
