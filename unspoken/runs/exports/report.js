"use strict";
// Captions, labels and keys are strangers' text: they reach the page as textContent only.
const CARDS_A_PAGE = 30;
const rows = JSON.parse(document.getElementById("data").textContent);
const field = (id) => document.getElementById(id);
const cards = field("cards");
let shown = [];
let next = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function wanted() {
  return {
    label: field("label").value.trim().toLowerCase(),
    source: field("source").value,
    kind: field("kind").value,
    score: Number(field("score").value),
    caption: field("caption").value.trim().toLowerCase(),
  };
}

function fits(box, filter) {
  const labels = [box.label, ...box.alt_labels];
  return box.score >= filter.score
    && (!filter.label || labels.some((label) => label.toLowerCase() === filter.label))
    && (!filter.source || box.templates.includes(filter.source))
    && (!filter.kind || box.kind === filter.kind);
}

function apply() {
  const filter = wanted();
  const picks = filter.label || filter.source || filter.kind || filter.score > 0;
  shown = [];
  let boxes = 0;
  for (const row of rows) {
    if (filter.caption && !row.caption.toLowerCase().includes(filter.caption)) continue;
    const fitting = row.boxes.filter((box) => fits(box, filter));
    if (picks && !fitting.length) continue;
    shown.push([row, fitting]);
    boxes += fitting.length;
  }
  field("score-value").textContent = filter.score.toFixed(2);
  field("count").textContent = `${shown.length} of ${rows.length} pictures, ${boxes} boxes`;
  cards.replaceChildren();
  next = 0;
  more();
}

function more() {
  for (const [row, boxes] of shown.slice(next, next + CARDS_A_PAGE)) cards.append(card(row, boxes));
  next += CARDS_A_PAGE;
  // The observer reports a change only: ask again while the page's end is still in sight.
  end.unobserve(field("end"));
  if (next < shown.length) end.observe(field("end"));
}

function card(row, boxes) {
  const made = element("article");
  const picture = element("div", "picture");
  // Enlarged, it still fits the window.
  picture.style.maxWidth = `calc(80vh * ${row.width / row.height})`;
  const image = element("img");
  image.loading = "lazy";
  image.width = row.width;
  image.height = row.height;
  image.alt = row.caption;
  image.src = row.picture;
  picture.append(image, ...boxes.map((box) => drawn(box, row)));
  picture.addEventListener("click", () => made.classList.toggle("wide"));
  made.append(picture, element("p", "", row.caption), element("small", "", row.key));
  made.append(phrases("asked and without a box", row.unboxed), phrases("not asked", row.rejected, "rejected"));
  return made;
}

function drawn(box, row) {
  const [x0, y0, x1, y1] = box.box;
  const made = element("div", `box ${box.kind}`);
  made.style.left = `${(100 * x0) / row.width}%`;
  made.style.top = `${(100 * y0) / row.height}%`;
  made.style.width = `${(100 * (x1 - x0)) / row.width}%`;
  made.style.height = `${(100 * (y1 - y0)) / row.height}%`;
  made.append(element("b", "", `${box.label} ${box.score.toFixed(2)}`));
  const also = box.alt_labels.length ? `\nalso: ${box.alt_labels.join(", ")}` : "";
  made.title = `${box.label} ${box.score.toFixed(2)}\nfrom: ${box.templates.join(", ")}${also}`;
  return made;
}

function phrases(title, list, className) {
  if (!list.length) return "";
  const made = element("details", className);
  const lines = element("ul");
  lines.append(...list.map((text) => element("li", "", text)));
  made.append(element("summary", "", `${list.length} ${title}`), lines);
  return made;
}

function choices() {
  const labels = new Map();
  const sources = new Set();
  for (const box of rows.flatMap((row) => row.boxes)) {
    labels.set(box.label, (labels.get(box.label) || 0) + 1);
    for (const source of box.templates) sources.add(source);
  }
  for (const [label, number] of [...labels].sort((a, b) => b[1] - a[1])) {
    const option = element("option");
    option.value = label;
    option.label = `${label} (${number})`;
    field("labels").append(option);
  }
  for (const source of [...sources].sort()) field("source").append(element("option", "", source));
}

const end = new IntersectionObserver((seen) => {
  if (seen.some((each) => each.isIntersecting)) more();
}, { rootMargin: "600px" });
field("filters").addEventListener("input", apply);
field("filters").addEventListener("submit", (event) => event.preventDefault());
field("filters").addEventListener("reset", () => setTimeout(apply));
choices();
apply();
