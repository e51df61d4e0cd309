"use strict";
// Captions, labels and keys are strangers' text: they reach the page as textContent only.
const CARDS_A_PAGE = 30;
const rows = JSON.parse(document.getElementById("data").textContent);
const field = (id) => document.getElementById(id);
const cards = field("cards");
const dialog = field("large");
let shown = [];
let next = 0;
let enlarged = 0;

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
  for (const row of rows) {
    if (filter.caption && !row.caption.toLowerCase().includes(filter.caption)) continue;
    const fitting = row.boxes.filter((box) => fits(box, filter));
    if (picks && !fitting.length) continue;
    shown.push([row, fitting]);
  }
  sort(field("order").value);
  field("score-value").textContent = filter.score.toFixed(2);
  field("count").textContent = count();
  cards.replaceChildren();
  next = 0;
  scrollTo(0, 0);
  more();
}

function sort(order) {
  const best = ([, boxes]) => Math.max(...boxes.map((box) => box.score));
  const lowest = ([, boxes]) => Math.min(...boxes.map((box) => box.score));
  if (order === "most") shown.sort((a, b) => b[1].length - a[1].length);
  // Without boxes, the best score is -Infinity and the lowest Infinity: these pictures come last.
  if (order === "high") shown.sort((a, b) => best(b) - best(a) || 0);
  if (order === "low") shown.sort((a, b) => lowest(a) - lowest(b) || 0);
}

function count() {
  const boxes = shown.flatMap(([, fitting]) => fitting);
  const kinds = [["named", "named"], ["implied", "implied"], ["part", "of parts"]].map(
    ([kind, text]) => `${boxes.filter((box) => box.kind === kind).length} ${text}`,
  );
  return `${shown.length} of ${rows.length} pictures, ${boxes.length} ${boxes.length === 1 ? "box" : "boxes"} (${kinds.join(", ")})`;
}

function more() {
  for (const last = Math.min(next + CARDS_A_PAGE, shown.length); next < last; next += 1) {
    cards.append(card(next));
  }
  // The observer reports a change only: ask again while the page's end is still in sight.
  end.unobserve(field("end"));
  if (next < shown.length) end.observe(field("end"));
}

function card(index) {
  const [row, boxes] = shown[index];
  const made = element("article");
  const button = element("button", "enlarge");
  button.type = "button";
  button.setAttribute("aria-label", `enlarge: ${row.caption}`);
  button.addEventListener("click", () => enlarge(index));
  button.append(framed(row, boxes));
  made.append(button, ...texts(row));
  return made;
}

function texts(row) {
  return [
    element("p", "", row.caption),
    element("small", "", row.key),
    phrases("searched for, but not found", row.unboxed),
    phrases("left out before the search", row.rejected, "rejected"),
  ];
}

function framed(row, boxes) {
  const picture = element("div", "picture");
  const image = element("img");
  image.loading = "lazy";
  image.width = row.width;
  image.height = row.height;
  image.alt = row.caption;
  image.src = row.picture;
  picture.append(image, ...boxes.map((box) => drawn(box, row)), ...boxes.map(tag));
  resized.observe(picture);
  return picture;
}

function drawn(box, row) {
  const [x0, y0, x1, y1] = box.box;
  const made = element("div", `box ${box.kind}`);
  made.style.left = `${(100 * x0) / row.width}%`;
  made.style.top = `${(100 * y0) / row.height}%`;
  made.style.width = `${(100 * (x1 - x0)) / row.width}%`;
  made.style.height = `${(100 * (y1 - y0)) / row.height}%`;
  const also = box.alt_labels.length ? `\nalso: ${box.alt_labels.join(", ")}` : "";
  made.title = `${box.label} ${box.score.toFixed(2)}\nfrom: ${box.templates.join(", ")}${also}`;
  return made;
}

function tag(box) {
  return element("span", `tag ${box.kind}`, `${box.label} ${box.score.toFixed(2)}`);
}

// Place the tags as unspoken.imaging.label_layout does: inside the picture, clear of other tags and
// of small boxes. Small boxes choose first, because they have the fewest good places.
function placeTags(picture) {
  const rectangle = (each) => [each.offsetLeft, each.offsetTop, each.offsetWidth, each.offsetHeight];
  const boxes = [...picture.querySelectorAll(".box")].map(rectangle);
  const tags = [...picture.querySelectorAll(".tag")];
  const placed = [];
  const area = ([, , width, height]) => Math.max(1, width * height);
  const order = boxes.map((_, index) => index).sort((a, b) => area(boxes[a]) - area(boxes[b]));
  for (const index of order) {
    const [width, height] = [tags[index].offsetWidth, tags[index].offsetHeight];
    let best = [Infinity];
    places(boxes[index], width, height).forEach(([wantedX, wantedY], step) => {
      const x = Math.max(0, Math.min(wantedX, picture.clientWidth - width));
      const y = Math.max(0, Math.min(wantedY, picture.clientHeight - height));
      const here = [x, y, width, height];
      let cost = 0.01 * step;
      for (const other of placed) cost += shared(here, other) && 1 + (10 * shared(here, other)) / area(here);
      for (const box of boxes) cost += shared(here, box) / area(box);
      if (cost < best[0]) best = [cost, here];
    });
    placed.push(best[1]);
    tags[index].style.left = `${best[1][0]}px`;
    tags[index].style.top = `${best[1][1]}px`;
  }
}

function places([x, y, boxWidth, boxHeight], width, height) {
  const right = x + boxWidth - width;
  const below = y + boxHeight;
  const found = [[x, y - height], [x, y], [x, below], [right, y - height], [right, y], [right, below]];
  found.push([x, below - height], [right, below - height], [x + boxWidth, y], [x - width, y]);
  for (let rows = 1; rows <= 5; rows += 1) {
    for (const left of [x, right, x + boxWidth, x - width]) {
      found.push([left, y - height * (rows + 1)], [left, below + height * rows]);
    }
  }
  return found;
}

function shared([ax, ay, aw, ah], [bx, by, bw, bh]) {
  const width = Math.min(ax + aw, bx + bw) - Math.max(ax, bx);
  const height = Math.min(ay + ah, by + bh) - Math.max(ay, by);
  return width > 0 && height > 0 ? width * height : 0;
}

function enlarge(index) {
  if (index < 0 || index >= shown.length) return;
  while (cards.children.length <= index) more();
  enlarged = index;
  const [row, boxes] = shown[index];
  const picture = framed(row, boxes);
  picture.style.maxWidth = `calc(70vh * ${row.width / row.height})`;
  field("place").textContent = `${index + 1} of ${shown.length}`;
  field("previous").disabled = index === 0;
  field("next").disabled = index === shown.length - 1;
  field("shown").replaceChildren(picture, ...texts(row));
  if (!dialog.open) dialog.showModal();
}

function phrases(title, list, className) {
  if (!list.length) return "";
  const made = element("details", className);
  const lines = element("ul");
  lines.append(...list.map((text) => element("li", "", text)));
  made.append(element("summary", "", `${list.length} ${list.length === 1 ? "phrase" : "phrases"} ${title}`), lines);
  return made;
}

function choices() {
  const labels = new Map();
  const sources = new Map();
  for (const box of rows.flatMap((row) => row.boxes)) {
    labels.set(box.label, (labels.get(box.label) || 0) + 1);
    for (const source of box.templates) sources.set(source, (sources.get(source) || 0) + 1);
  }
  for (const [label, number] of [...labels].sort((a, b) => b[1] - a[1])) {
    const option = element("option");
    option.value = label;
    option.label = `${label} (${number})`;
    field("labels").append(option);
  }
  for (const [source, number] of [...sources].sort()) {
    const option = element("option", "", `${source} (${number})`);
    option.value = source;
    field("source").append(option);
  }
}

const end = new IntersectionObserver((seen) => {
  if (seen.some((each) => each.isIntersecting)) more();
}, { rootMargin: "600px" });
const resized = new ResizeObserver((changes) => changes.forEach((each) => placeTags(each.target)));
// After a reload the browser would restore the old position and leave the first row below the bar.
history.scrollRestoration = "manual";
field("previous").addEventListener("click", () => enlarge(enlarged - 1));
field("next").addEventListener("click", () => enlarge(enlarged + 1));
field("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => cards.children[enlarged].querySelector("button").focus());
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) enlarge(enlarged + step);
});
field("filters").addEventListener("input", apply);
field("filters").addEventListener("submit", (event) => event.preventDefault());
field("filters").addEventListener("reset", () => setTimeout(apply));
choices();
apply();
