"use strict";
// Without this script everything stays readable: it sorts, filters, enlarges, picks, and opens the tables for paper.

/** What a cell is sorted by: its first number, or its text; null where it says nothing. */
function sortValue(cell) {
  const text = cell.textContent.trim();
  if (text === "" || text === "–" || text.startsWith("failed")) return null;
  const number = text.replaceAll("−", "-").replaceAll(",", "").match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i);
  return number ? Number(number[0]) : text.toLowerCase();
}

function compare(one, other) {
  if (typeof one === typeof other) return one < other ? -1 : one > other ? 1 : 0;
  return typeof one === "number" ? -1 : 1;
}

/** Sort a table's rows by a column; rows that say nothing there stay last. */
function sortRows(table, column, ascending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, value: sortValue(row.cells[column]) }));
  rows.sort((one, other) => {
    if (one.value === null || other.value === null) return (one.value === null) - (other.value === null);
    return ascending ? compare(one.value, other.value) : compare(other.value, one.value);
  });
  body.append(...rows.map((entry) => entry.row));
}

function makeSortable(table) {
  const heads = [...table.querySelectorAll("thead th[data-column]")];
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortRows(table, Number(head.dataset.column), ascending);
    });
  }
}

/** A text box above a table: only rows that hold all of its words are shown. */
function makeFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const label = document.createElement("label");
  label.className = "filter";
  const box = document.createElement("input");
  box.type = "search";
  const count = document.createElement("output");
  label.append("Filter rows: ", box, count);
  (table.closest(".scroll") ?? table).before(label);
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  makeSortable(table);
  if (table.tBodies[0].rows.length > 5) makeFilter(table);
}

const dialog = document.querySelector("dialog");
for (const link of document.querySelectorAll("a.enlarge")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const image = link.querySelector("img");
    const large = dialog.querySelector("img");
    large.src = image.src;
    large.alt = image.alt;
    dialog.querySelector("p").textContent = link.closest("figure").querySelector("figcaption").textContent;
    dialog.showModal();
  });
}
dialog?.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});

const gallery = document.querySelector("#gallery-choices");
if (gallery) {
  const exhibits = [...document.querySelectorAll(".exhibit")];
  const selects = [...gallery.querySelectorAll("select")];
  const show = () => {
    const matching = exhibits.filter((one) => selects.every((s) => s.value === "" || one.dataset[s.name] === s.value));
    for (const one of exhibits) one.hidden = !matching.includes(one);
    gallery.querySelector("output").textContent = matching.length ? `${matching.length} shown` : "No such cells are done.";
  };
  for (const select of selects) select.addEventListener("change", show);
  gallery.hidden = false;
  show();
}

// On paper nothing can be opened.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.printed:not([open])")];
  for (const one of opened) one.open = true;
});
window.addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
