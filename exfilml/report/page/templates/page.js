"use strict";
document.documentElement.classList.add("js");
document.addEventListener("DOMContentLoaded", () => {
  const $ = (id) => document.getElementById(id);
  const table = $("cases");
  const say = (text) => { $("said").textContent = text; };

  const narrow = matchMedia("(max-width:760px)").matches;
  if (narrow) $("rest").open = false;

  const copied = (button) => {
    button.textContent = "Copied";
    say("Command copied");
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  };
  const copy = (button) => {
    const code = button.previousElementSibling;
    const byHand = () => {
      // Where the clipboard is closed to pages, as in a notebook's frame.
      getSelection().selectAllChildren(code);
      if (document.execCommand("copy")) copied(button);
      else say("Selected: copy it with the keyboard");
    };
    if (!navigator.clipboard) { byHand(); return; }
    navigator.clipboard.writeText(code.textContent).then(() => copied(button), byHand);
  };

  if (!table || table.tagName !== "TABLE") return;
  const bodies = [...table.tBodies];
  const toggleOf = (body) => body.querySelector(".toggle");
  const isOpen = (body) => body.rows[1].classList.contains("open");
  const setOpen = (body, open) => {
    body.rows[1].classList.toggle("open", open);
    toggleOf(body).setAttribute("aria-expanded", String(open));
  };

  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.classList.contains("copy")) { copy(button); return; }
    if (button && button.dataset.by) { sort(button.dataset.by); return; }
    const row = event.target.closest("tr.c");
    // A click that ends a selection of text opens nothing.
    if (!row || event.target.closest("a") || (!button && String(getSelection()))) return;
    setOpen(row.parentElement, !isOpen(row.parentElement));
  });

  const heads = new Map();
  for (const button of table.tHead.querySelectorAll("button[data-by]")) {
    heads.set(button.dataset.by, button.parentElement);
  }
  const NUMBERS = ["rank", "level", "bits", "up", "seen"];
  const texts = {
    local: (body) => body.querySelector(".c-local").textContent,
    place: (body) => body.querySelector(".c-place").textContent,
  };
  const keyOf = (body, by) => {
    const at = NUMBERS.indexOf(by);
    return at < 0 ? texts[by](body) : Number(body.dataset.sort.split(" ")[at]);
  };
  const byText = new Intl.Collator("en", { numeric: true }).compare;
  const sort = (by, way) => {
    const head = heads.get(by);
    const first = by === "rank" || by in texts ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const now = way || (head.getAttribute("aria-sort") === first ? other : first);
    const sign = now === "ascending" ? 1 : -1;
    const compare = by in texts ? byText : (a, b) => a - b;
    bodies
      .map((body) => [keyOf(body, by), keyOf(body, "rank"), body])
      .sort((a, b) => sign * compare(a[0], b[0]) || a[1] - b[1])
      .forEach(([, , body]) => table.append(body));
    for (const th of heads.values()) th.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", now);
    $("sort").value = by;
    say(`Sorted by ${$("sort").selectedOptions[0].text}, ${now}`);
  };
  $("sort").addEventListener("change", () => sort($("sort").value, ""));

  const found = new Map();
  const textOf = (body) => {
    if (!found.has(body)) found.set(body, body.textContent.toLowerCase());
    return found.get(body);
  };
  const filter = () => {
    const words = $("q").value.toLowerCase().split(/\s+/).filter(Boolean);
    const levels = [...$("tools").querySelectorAll("#levels :checked")].map((b) => b.value);
    const alerts = $("alerts").checked;
    let shown = 0;
    for (const body of bodies) {
      const fits = (!alerts || body.dataset.alert === "1")
        && (!levels.length || levels.includes(body.dataset.level))
        && words.every((word) => textOf(body).includes(word));
      body.hidden = !fits;
      shown += fits;
    }
    $("count").textContent = `${shown} of ${bodies.length} shown`;
    $("none").hidden = shown > 0;
  };
  let soon = 0;
  $("q").addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(filter, 80); });
  $("tools").addEventListener("change", filter);
  $("tools").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  const reset = () => { $("tools").reset(); filter(); };
  $("reset").addEventListener("click", reset);
  $("open").addEventListener("click", () => {
    for (const body of bodies) if (!body.hidden) setOpen(body, true);
  });
  $("shut").addEventListener("click", () => { for (const body of bodies) setOpen(body, false); });

  const follow = () => {
    const name = decodeURIComponent(location.hash.slice(1));
    const body = bodies.find((b) => b.dataset.name === name || b.id === name);
    if (!name || !body) return;
    if (body.hidden) reset();
    setOpen(body, true);
    body.scrollIntoView({ block: "start" });
    toggleOf(body).focus({ preventScroll: true });
  };
  addEventListener("hashchange", follow);
  follow();

  // Rows that are laid out as cards are still rows to a screen reader.
  const roles = [["thead,tbody", "rowgroup"], ["tr", "row"], ["th", "columnheader"], ["td", "cell"]];
  if (narrow) {
    for (const [what, role] of [["table", "table"], ...roles]) {
      for (const part of document.querySelectorAll(what)) part.setAttribute("role", role);
    }
  }
});
