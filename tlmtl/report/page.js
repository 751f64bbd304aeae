"use strict";
// Sorting and filtering of the table, and long lists opened for print. Without a script the page still says everything.
(() => {
  const table = document.getElementById("results-table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const words = rows.map((row) => row.textContent.toLowerCase());

  function value(row, column, numeric) {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent.trim();
    return "by" in cell.dataset ? Number(cell.dataset.by) : null;
  }

  function sort(column) {
    const head = heads[column];
    const numeric = "numeric" in head.dataset;
    const before = head.getAttribute("aria-sort");
    const first = numeric && head.classList.contains("number") ? "descending" : "ascending";
    const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const keyed = rows.map((row, at) => ({ row, at, by: value(row, column, numeric) }));
    keyed.sort((one, other) => {
      if (one.by === null || other.by === null) return (one.by === null) - (other.by === null) || one.at - other.at;
      const less = numeric ? one.by - other.by : one.by.localeCompare(other.by, undefined, { numeric: true });
      return sign * less || one.at - other.at;
    });
    body.append(...keyed.map((one) => one.row));
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(column));
  });

  const field = document.getElementById("filter");
  const count = document.getElementById("count");

  function filter() {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !wanted.every((word) => words[at].includes(word));
      shown += !row.hidden;
    });
    count.textContent = `${shown} of ${rows.length} rows`;
    document.getElementById("none").hidden = shown > 0;
  }

  field.addEventListener("input", filter);
  document.querySelector(".controls").hidden = rows.length < 2;
  filter();

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
