/* Tables that sort by a click on a heading; a second click turns the order round. */
"use strict";

(function () {
  function key(row, column) {
    const text = row.cells[column].dataset.key;
    return text === "" || text === undefined ? null : Number(text);
  }

  function sort(table, heading) {
    const column = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].sort(function (a, b) {
      const x = key(a, column);
      const y = key(b, column);
      if (x === null || y === null) return (x === null) - (y === null); // unknown ones stay last
      return down ? y - x : x - y;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", function (event) {
      const button = event.target.closest("button");
      if (button) sort(table, button.parentElement);
    });
  }
})();
