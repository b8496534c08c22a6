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
  right: "correct", class: "wrong label", duplicate: "duplicate", localisation: "poor localisation",
  background: "background", crowd: "on a crowd", missed: "missed",
};
const VIEWS = { truth: "Ground truth", raw: "Raw", filtered: "Filtered", difference: "Difference" };
const COLOURS = {{ colours | length }};

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "title", "text"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children); // strings become text, never markup
  return element;
}

/* The images with their overlays, in the format of mtseg/report/gallery.py. Filters and sorting use the filtered
   predictions, so that an image stays where it is when the view changes. */
function gallery() {
  const { tasks, images } = JSON.parse(document.getElementById("gallery-data").textContent);
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
  const loud = (image) => image.raw.filter((item) => item.score >= threshold());
  const missed = (image, found) => {
    const taken = new Set(found.map((item) => item.truth));
    return image.truth.filter((item, index) => !item.crowd && !taken.has(index));
  };

  for (const image of images) {
    image.figure = document.getElementById(`image-${image.id}`);
    // what filters look for: each prediction with the object it matched, and each object that none matched
    image.events = image.filtered.map((item) => ({ ...item, true: image.truth[item.truth]?.labels ?? [] }));
    const lost = missed(image, image.filtered);
    image.events.push(...lost.map((item) => ({ kind: "missed", labels: item.labels, true: [], wrong: [] })));
    image.errors = image.events.filter((event) => !["right", "crowd"].includes(event.kind)).length;
  }

  const SORTS = {
    worst: (a, b) => (a.joint_f1 ?? 101) - (b.joint_f1 ?? 101),
    best: (a, b) => (b.joint_f1 ?? -1) - (a.joint_f1 ?? -1),
    errors: (a, b) => b.errors - a.errors,
    objects: (a, b) => b.truth.length - a.truth.length,
    name: (a, b) => a.name.localeCompare(b.name),
  };

  function fits(image) {
    const { value: kind } = field.error;
    const wrong = field.task.value;
    const [task, label] = field.class.value.split(" ").map(Number);
    if (!kind && !wrong && !field.class.value) return true;
    return image.events.some((event) =>
      (!kind || event.kind === kind) &&
      (!wrong || event.wrong.includes(Number(wrong))) &&
      (!field.class.value || event.labels[task] === label || event.true[task] === label));
  }

  /* What a view draws: [object, CSS classes, text] each. */
  function overlays(image, view) {
    const scored = (item) => `${labels(item)} ${percent(item)}`;
    const plain = (item) => [item, colour(item), scored(item)];
    const dashed = (item, text) => [item, `${colour(item)} dashed`, text];
    if (view === "truth") {
      return image.truth.map((item) =>
        item.crowd ? dashed(item, `${labels(item)}, crowd`) : [item, colour(item), labels(item)]);
    }
    if (view === "raw") {
      return loud(image).map((item) => (item.removed ? dashed(item, `${scored(item)}, ${removal(item)}`) : plain(item)));
    }
    if (view === "filtered") return image.filtered.map(plain);
    return [
      ...missed(image, image.filtered).map((item) => [item, "missed dashed", `missed: ${labels(item)}`]),
      ...image.filtered.map((item) => [item, item.kind, `${KINDS[item.kind]}: ${scored(item)}`]),
    ];
  }

  function draw(image, view) {
    const larger = (one, other) => other[0].area - one[0].area; // small ones on top, where a pointer reaches them
    const paths = overlays(image, view).sort(larger).map(([item, style, text]) => {
      const path = make("path", { d: item.path, class: style }, make("title", {}, text));
      path.item = item;
      return path;
    });
    return make("svg", { viewBox: `0 0 ${image.width} ${image.height}`, "aria-hidden": "true" }, ...paths);
  }

  function count(shown, view) {
    const found = (image) => (view === "raw" ? loud(image) : image.filtered);
    const tally = {};
    for (const image of shown) {
      for (const item of found(image)) tally[item.kind] = (tally[item.kind] ?? 0) + 1;
      tally.missed = (tally.missed ?? 0) + missed(image, found(image)).length;
    }
    const parts = Object.keys(KINDS).filter((kind) => tally[kind]).map((kind) => `${tally[kind]} ${KINDS[kind]}`);
    return parts.join(", ") || "no object";
  }

  function describe(shown, view) {
    if (view !== "truth") return count(shown, view);
    return `${shown.reduce((sum, image) => sum + image.truth.length, 0)} annotated`;
  }

  function paint(image) {
    const view = field.view.value;
    image.figure.querySelector("svg")?.remove();
    image.figure.querySelector(".overlaid").append(draw(image, view));
    image.figure.querySelector(".counts").textContent = describe([image], view);
    image.stale = false;
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const image = images.find((one) => one.figure === entry.target);
      image.near = entry.isIntersecting;
      if (image.near && image.stale) paint(image);
    }
  }, { rootMargin: "400px" });

  function update() {
    const view = field.view.value;
    order = images.filter(fits).sort(SORTS[field.sort.value]); // stable: equal ones stay as they came
    for (const image of images) {
      image.stale = true;
      image.figure.hidden = true;
    }
    for (const image of order) image.figure.hidden = false;
    const now = [...document.querySelectorAll(".images figure:not([hidden])")];
    if (order.some((image, place) => image.figure !== now[place])) {
      now[0]?.parentNode.append(...order.map((image) => image.figure));
    }
    order.filter((image) => image.near).forEach(paint);
    document.getElementById("threshold").textContent = threshold().toFixed(2);
    const at = view === "raw" ? ` from score ${threshold().toFixed(2)}` : "";
    document.getElementById("summary").textContent =
      `${order.length} of ${images.length} images. ${VIEWS[view]}${at}: ${describe(order, view)}.`;
    document.getElementById("nothing").hidden = order.length > 0;
    const legend = view === "difference"
      ? Object.entries(KINDS).map(([kind, text]) => [kind, text])
      : tasks[0].classes.map((name, index) => [`c${index % COLOURS}`, name]);
    const entries = legend.map(([style, text]) => make("li", { class: style }, text));
    if (view === "raw") entries.push(make("li", { class: "dashed" }, "dashed: removed by the filter"));
    document.getElementById("legend").replaceChildren(...entries);
  }

  /* One image: every view beside the others, and all its labels as text; a row lights up its outlines. */
  function enlarge(image) {
    opened = image;
    const found = image.filtered;
    const rows = [ // annotated, predicted, verdict
      ...found.map((item) => [image.truth[item.truth], item, KINDS[item.kind]]),
      ...missed(image, found).map((item) => [item, null, KINDS.missed]),
      ...loud(image).filter((item) => item.removed).map((item) => [
        image.truth[item.truth], item, `${KINDS[item.kind]}, ${removal(item)}`]),
    ];
    large.querySelector("h3").textContent = image.name;
    large.querySelector("caption").textContent = `${count([image], "filtered")} after the filter. ` +
      `Below: raw predictions from score ${threshold().toFixed(2)} that it removed.`;
    large.querySelector(".panels").replaceChildren(...Object.entries(VIEWS).map(([view, title]) => {
      const pixels = make("img", { src: `${image.id}.jpg`, width: image.width, height: image.height, alt: "" });
      const label = `${title} alone or beside the others`;
      const button = make("button", { type: "button", class: "overlaid", "aria-label": label }, pixels, draw(image, view));
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
    const place = order.indexOf(image);
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
    const link = event.target.closest("a[href^='#image-']");
    const image = link && images.find((one) => `#image-${one.id}` === link.hash);
    if (!image) return;
    event.preventDefault();
    enlarge(image);
  });
  for (const image of images) {
    image.figure.querySelector("button").addEventListener("click", () => enlarge(image));
    watcher.observe(image.figure);
  }
  field.score.addEventListener("input", () => (field.view.value = "raw"));
  controls.addEventListener("input", update);
  controls.addEventListener("reset", () => setTimeout(update));
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  update();
}
if (document.getElementById("gallery-data")) gallery();
