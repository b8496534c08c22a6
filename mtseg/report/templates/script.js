"use strict";

/* A click or Enter on a heading of table.sortable sorts it, numbers from the greatest, text from A; again: the other way.
   Cells sort by data-value where they have one; dashes go last. */
function sortable(table) {
  const value = (row, column) => {
    const cell = row.cells[column];
    return (cell.dataset.value ?? cell.textContent).trim();
  };
  const sort = (header) => {
    const column = header.cellIndex;
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.every((row) => value(row, column) === "–" || !isNaN(parseFloat(value(row, column))));
    const now = header.ariaSort;
    const down = now ? now === "ascending" : numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.ariaSort = down ? "descending" : "ascending";
    rows.sort((one, other) => {
      const [a, b] = [value(one, column), value(other, column)];
      if (a === "–" || b === "–") return (a === "–") - (b === "–");
      return (down ? -1 : 1) * (numeric ? parseFloat(a) - parseFloat(b) : a.localeCompare(b));
    });
    table.tBodies[0].append(...rows);
  };
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }
}
document.querySelectorAll("table.sortable").forEach(sortable);
