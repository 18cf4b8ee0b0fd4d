// Light or dark: the system's choice until the button is pressed.
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const paint = (dark) => root.classList.toggle("dark", dark);
paint(system.matches);
system.addEventListener("change", (event) => paint(event.matches));
document.getElementById("theme").addEventListener("click", () => paint(!root.classList.contains("dark")));

// DataTables and jQuery out of itables' bundle, which is part of this file.
const bytes = Uint8Array.from(atob(TABLES), (c) => c.charCodeAt(0));
const url = URL.createObjectURL(new Blob([bytes], { type: "application/javascript" }));
const { jQuery: $ } = await import(url);
URL.revokeObjectURL(url);
for (const table of document.querySelectorAll("table.data")) {
  const all = table.classList.contains("all");
  $(table).DataTable({
    order: [],
    paging: all,
    pageLength: 25,
    info: all,
    autoWidth: false,
    layout: { topStart: all ? "pageLength" : null, topEnd: all || table.tBodies[0].rows.length > 12 ? "search" : null, bottomStart: all ? "info" : null, bottomEnd: all ? "paging" : null },
    columnControl: all ? ["order", "searchDropdown"] : [],
    ordering: { indicators: !all, handler: true },
  });
}

// What stands behind a number, on demand; the tables make their rows anew, so one listener serves all.
const note = document.getElementById("note");
document.addEventListener("click", (event) => {
  const value = event.target.closest("button.value");
  if (!value || !value.dataset.note || note.dataset.of === value.dataset.note + value.getBoundingClientRect().x) {
    note.hidden = true;
    note.dataset.of = "";
    return;
  }
  note.textContent = value.dataset.note;
  note.hidden = false;
  const box = value.getBoundingClientRect();
  note.dataset.of = value.dataset.note + box.x;
  note.style.top = `${box.bottom + scrollY + 6}px`;
  note.style.left = `${Math.max(8, Math.min(box.left + scrollX, scrollX + innerWidth - note.offsetWidth - 16))}px`;
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") note.hidden = true; });
root.dataset.ready = "yes";
