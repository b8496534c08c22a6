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

const KINDS = {
  right: "right", label: "wrong label", duplicate: "duplicate", localisation: "badly placed", false: "false positive",
  crowd: "on a crowd", missed: "missed",
};
const VIEWS = { truth: "Ground truth", raw: "Raw", filtered: "Filtered", difference: "Difference" };
const COLOURS = 10;

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "title", "text"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children); // strings become text, never markup
  return element;
}

/* The pictures with their overlays. What a picture holds is told in mtseg/report/gallery.py. Filters and sorting go by the
   filtered predictions, so that a picture stays where it is when the view changes. */
function gallery() {
  const { tasks, pictures } = JSON.parse(document.getElementById("gallery-data").textContent);
  const controls = document.getElementById("controls");
  const large = document.getElementById("large");
  const field = controls.elements;
  let order = [];
  let opened = null;

  const threshold = () => Number(field.score.value);
  const name = (item, task) => (item.labels[task] === null ? "–" : tasks[task].classes[item.labels[task]]);
  const labels = (item) => tasks.map((_, task) => name(item, task)).join(", ");
  const chances = (item) => tasks.map((_, task) => `${name(item, task)} ${item.chances[task]}`).join(", ");
  const removal = (item) => `removed by ${item.removed.replaceAll("_", " ")}`;
  const percent = (item) => `${Math.round(100 * item.score)} %`;
  const colour = (item) => `c${(item.labels[0] ?? 0) % COLOURS}`;
  const loud = (picture) => picture.raw.filter((item) => item.score >= threshold());
  const missed = (picture, found) => {
    const taken = new Set(found.map((item) => item.truth));
    return picture.truth.filter((item, index) => !item.crowd && !taken.has(index));
  };

  for (const picture of pictures) {
    picture.figure = document.getElementById(`picture-${picture.id}`);
    // what filters look for: each prediction with the object it found, and each object that none found
    picture.events = picture.filtered.map((item) => ({ ...item, true: picture.truth[item.truth]?.labels ?? [] }));
    const lost = missed(picture, picture.filtered);
    picture.events.push(...lost.map((item) => ({ kind: "missed", labels: item.labels, true: [], wrong: [] })));
    picture.errors = picture.events.filter((event) => !["right", "crowd"].includes(event.kind)).length;
  }

  const SORTS = {
    worst: (a, b) => (a.joint_f1 ?? 101) - (b.joint_f1 ?? 101),
    best: (a, b) => (b.joint_f1 ?? -1) - (a.joint_f1 ?? -1),
    errors: (a, b) => b.errors - a.errors,
    objects: (a, b) => b.truth.length - a.truth.length,
    name: (a, b) => a.name.localeCompare(b.name),
  };

  function fits(picture) {
    const { value: kind } = field.error;
    const wrong = field.task.value;
    const [task, label] = field.class.value.split(" ").map(Number);
    if (!kind && !wrong && !field.class.value) return true;
    return picture.events.some((event) =>
      (!kind || event.kind === kind) &&
      (!wrong || event.wrong.includes(Number(wrong))) &&
      (!field.class.value || event.labels[task] === label || event.true[task] === label));
  }

  /* What a view draws: [object, CSS classes, text] each. */
  function overlays(picture, view) {
    const told = (item) => `${labels(item)} ${percent(item)}`;
    const plain = (item) => [item, colour(item), told(item)];
    const dashed = (item, text) => [item, `${colour(item)} dashed`, text];
    if (view === "truth") {
      return picture.truth.map((item) =>
        item.crowd ? dashed(item, `${labels(item)}, crowd`) : [item, colour(item), labels(item)]);
    }
    if (view === "raw") {
      return loud(picture).map((item) => (item.removed ? dashed(item, `${told(item)}, ${removal(item)}`) : plain(item)));
    }
    if (view === "filtered") return picture.filtered.map(plain);
    return [
      ...missed(picture, picture.filtered).map((item) => [item, "missed dashed", `missed: ${labels(item)}`]),
      ...picture.filtered.map((item) => [item, item.kind, `${KINDS[item.kind]}: ${told(item)}`]),
    ];
  }

  function draw(picture, view) {
    const larger = (one, other) => other[0].area - one[0].area; // small ones on top, where a pointer reaches them
    const paths = overlays(picture, view).sort(larger).map(([item, style, text]) => {
      const path = make("path", { d: item.path, class: style }, make("title", {}, text));
      path.item = item;
      return path;
    });
    return make("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, "aria-hidden": "true" }, ...paths);
  }

  function count(shown, view) {
    const found = (picture) => (view === "raw" ? loud(picture) : picture.filtered);
    const tally = {};
    for (const picture of shown) {
      for (const item of found(picture)) tally[item.kind] = (tally[item.kind] ?? 0) + 1;
      tally.missed = (tally.missed ?? 0) + missed(picture, found(picture)).length;
    }
    const parts = Object.keys(KINDS).filter((kind) => tally[kind]).map((kind) => `${tally[kind]} ${KINDS[kind]}`);
    return parts.join(", ") || "no object";
  }

  function told(shown, view) {
    if (view !== "truth") return count(shown, view);
    return `${shown.reduce((sum, picture) => sum + picture.truth.length, 0)} annotated`;
  }

  function paint(picture) {
    const view = field.view.value;
    picture.figure.querySelector("svg")?.remove();
    picture.figure.querySelector(".overlaid").append(draw(picture, view));
    picture.figure.querySelector(".counts").textContent = told([picture], view);
    picture.stale = false;
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const picture = pictures.find((one) => one.figure === entry.target);
      picture.near = entry.isIntersecting;
      if (picture.near && picture.stale) paint(picture);
    }
  }, { rootMargin: "400px" });

  function update() {
    const view = field.view.value;
    order = pictures.filter(fits).sort(SORTS[field.sort.value]); // stable: equal ones stay as they came
    for (const picture of pictures) {
      picture.stale = true;
      picture.figure.hidden = true;
    }
    for (const picture of order) picture.figure.hidden = false;
    const now = [...document.querySelectorAll(".pictures figure:not([hidden])")];
    if (order.some((picture, place) => picture.figure !== now[place])) {
      now[0]?.parentNode.append(...order.map((picture) => picture.figure));
    }
    order.filter((picture) => picture.near).forEach(paint);
    document.getElementById("threshold").textContent = threshold().toFixed(2);
    const at = view === "raw" ? ` from score ${threshold().toFixed(2)}` : "";
    document.getElementById("summary").textContent =
      `${order.length} of ${pictures.length} pictures. ${VIEWS[view]}${at}: ${told(order, view)}.`;
    document.getElementById("nothing").hidden = order.length > 0;
    const legend = view === "difference"
      ? Object.entries(KINDS).map(([kind, text]) => [kind, text])
      : tasks[0].classes.map((name, index) => [`c${index % COLOURS}`, name]);
    const entries = legend.map(([style, text]) => make("li", { class: style }, text));
    if (view === "raw") entries.push(make("li", { class: "dashed" }, "dashed: removed by the filter"));
    document.getElementById("legend").replaceChildren(...entries);
  }

  /* One picture, every view beside the others, and all its labels as text; a row lights up its outlines. */
  function enlarge(picture) {
    opened = picture;
    const found = picture.filtered;
    const rows = [ // annotated, predicted, verdict
      ...found.map((item) => [picture.truth[item.truth], item, KINDS[item.kind]]),
      ...missed(picture, found).map((item) => [item, null, KINDS.missed]),
      ...loud(picture).filter((item) => item.removed).map((item) => [
        picture.truth[item.truth], item, `${KINDS[item.kind]}, ${removal(item)}`]),
    ];
    large.querySelector("h3").textContent = picture.name;
    large.querySelector("caption").textContent = `${count([picture], "filtered")} after the filter. ` +
      `Below: raw predictions from score ${threshold().toFixed(2)} that it removed.`;
    large.querySelector(".panels").replaceChildren(...Object.entries(VIEWS).map(([view, title]) => {
      const image = make("img", { src: `${picture.id}.jpg`, width: picture.width, height: picture.height, alt: "" });
      const label = `${title} alone or beside the others`;
      const button = make("button", { type: "button", class: "overlaid", "aria-label": label }, image, draw(picture, view));
      const panel = make("figure", {}, make("figcaption", {}, title), button);
      button.addEventListener("click", () => panel.classList.toggle("alone"));
      return panel;
    }));
    large.querySelector("tbody").replaceChildren(...rows.map(([truth, item, verdict]) => {
      const cells = [truth ? labels(truth) : "–", item ? chances(item) : "–", item ? percent(item) : "–", verdict];
      const row = make("tr", { tabindex: "0" }, ...cells.map((text) => make("td", { class: "text" }, text)));
      const light = (on) => large.querySelectorAll("path").forEach((path) =>
        path.classList.toggle("lit", on && [truth, item].includes(path.item)));
      for (const event of ["mouseenter", "focus"]) row.addEventListener(event, () => light(true));
      for (const event of ["mouseleave", "blur"]) row.addEventListener(event, () => light(false));
      return row;
    }));
    const place = order.indexOf(picture);
    large.querySelector("[name=previous]").disabled = place <= 0;
    large.querySelector("[name=next]").disabled = place < 0 || place === order.length - 1;
    if (!large.open) large.showModal();
    large.scrollTop = 0;
  }

  const step = (by) => {
    const next = order[order.indexOf(opened) + by];
    if (order.includes(opened) && next) enlarge(next);
  };
  large.querySelector("[name=previous]").addEventListener("click", () => step(-1));
  large.querySelector("[name=next]").addEventListener("click", () => step(1));
  large.querySelector("[name=close]").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => event.target === large && large.close()); // the backdrop
  large.addEventListener("close", () => opened.figure.querySelector("button").focus());
  large.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#picture-']");
    const picture = link && pictures.find((one) => `#picture-${one.id}` === link.hash);
    if (!picture) return;
    event.preventDefault();
    enlarge(picture);
  });
  for (const picture of pictures) {
    picture.figure.querySelector("button").addEventListener("click", () => enlarge(picture));
    watcher.observe(picture.figure);
  }
  field.score.addEventListener("input", () => (field.view.value = "raw"));
  controls.addEventListener("input", update);
  controls.addEventListener("reset", () => setTimeout(update));
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  update();
}
if (document.getElementById("gallery-data")) gallery();
