/** The grid of figures. An item is found from its number, so that millions take no memory; only those in sight exist. */

import { BORDERS, MOST_IN_ROW, PATTERN, SORTS, readState, splitTerms, writeState } from "./browser_state.js";
import { make, shorten } from "./dom.js";

/** Width of a card where it is not said how many stand in a row. */
const WIDTH = 176;
const CAPTION = 46;
const GAP = 12;
/** Browsers lay out no more than some 30 million pixels. */
export const PAGE = 10_000;

/**
 * The picture of an item; a small one of cells is enlarged with sharp edges, a page stands in a frame where nothing runs,
 * and what is not there says why. Patterns are drawn for the theme; figures are as they were saved.
 */
export function makePicture({ source, look }, item) {
  const name = `${item.figure} of L${item.layer} H${item.head}`;
  const image = make("img", { alt: name, class: item.figure === PATTERN ? "ab-pattern" : null, decoding: "async", draggable: "false" });
  const tell = ({ message }) => image.replaceWith(make("span", { class: "ab-none", title: message }, message));
  const show = ({ url, isPage }) => {
    if (isPage) image.replaceWith(make("iframe", { src: url, sandbox: "", title: name, loading: "lazy", tabindex: -1 }));
    else image.src = url;
  };
  image.addEventListener("load", () => {
    image.classList.toggle("ab-cells", image.naturalWidth < image.clientWidth);
    URL.revokeObjectURL(image.src);
  });
  image.addEventListener("error", () => {
    const url = image.getAttribute("src");
    source.recheck(url).then((isPage) => (isPage ? show({ url, isPage }) : tell(new Error("this figure is damaged"))), tell);
  });
  source.getPicture(item, look).then(show, tell);
  return image;
}

/** Every combination of prompts, models, heads and figures, the axis of the sorting outermost. */
export function orderItems({ prompts, models, heads, figures, sort }) {
  const isDown = sort.startsWith("-");
  const by = sort.replace("-", "");
  const pairs = [...heads].flatMap(([layer, set]) => [...set].map((head) => ({ layer, head })));
  pairs.sort((a, b) => (by === "head" ? a.head - b.head || a.layer - b.layer : a.layer - b.layer || a.head - b.head));
  const axes = {
    prompt: prompts.map((prompt) => ({ prompt })),
    model: models.map((model) => ({ model })),
    head: pairs,
    figure: figures.map((figure) => ({ figure })),
  };
  const first = by === "layer" ? "head" : by;
  if (isDown) axes[first].reverse();
  const order = [first, ...Object.keys(axes).filter((name) => name !== first)].map((name) => axes[name]);
  const length = order.reduce((product, axis) => product * axis.length, 1);
  const get = (number) => {
    const item = {};
    for (let i = order.length - 1; i >= 0; i--) {
      Object.assign(item, order[i][number % order[i].length]);
      number = Math.floor(number / order[i].length);
    }
    return item;
  };
  return { length, get };
}

export function createGallery(context) {
  let items = { length: 0, get: null };
  let cards = new Map();
  /** A link may name a page that is not there; then it is the last. */
  let page = 0;
  const count = make("h2", { "aria-live": "polite" });
  const sort = make(
    "select",
    { "aria-label": "Sort by", onchange: () => context.update({ sort: sort.value, page: 0 }) },
    ...SORTS.map((name) => make("option", { value: name }, `by ${name}`)),
  );
  const direction = make("button", {
    class: "ab-small",
    onclick: () => {
      const now = context.state.sort;
      context.update({ sort: now.startsWith("-") ? now.slice(1) : `-${now}`, page: 0 });
    },
  });
  const perRow = make("input", {
    type: "number",
    class: "ab-input",
    min: 1,
    max: MOST_IN_ROW,
    placeholder: "auto",
    oninput: () => perRow.validity.valid && context.update({ row: Number(perRow.value) }),
  });
  const border = make(
    "select",
    { onchange: () => context.update({ border: border.value }) },
    ...BORDERS.map((name) => make("option", { value: name }, name)),
  );
  const field = (text, input) => make("label", { class: "ab-field" }, text, input);
  /** The first of two items that are to be compared. */
  let marked = null;
  const told = make("span", {});
  const pairing = make("p", { class: "ab-pairing", role: "status", hidden: true }, told, make("button", { class: "ab-small", onclick: () => mark(null) }, "Cancel"));
  const earlier = make("button", { class: "ab-small", onclick: () => turn(-1) }, "Previous");
  const later = make("button", { class: "ab-small", onclick: () => turn(1) }, "Next");
  const pages = make("nav", { class: "ab-pages", "aria-label": "Pages" }, earlier, make("span", {}), later);
  const room = make("div", { class: "ab-room" });
  const hint = make("p", { class: "ab-empty" });
  const cut = make("p", { class: "ab-empty", hidden: true });
  const element = make(
    "main",
    { class: "ab-main" },
    make(
      "div",
      { class: "ab-toolbar" },
      count,
      pages,
      make("div", { class: "ab-tools" }, field("Per row", perRow), field("Borders", border), sort, direction),
    ),
    pairing,
    cut,
    hint,
    room,
  );
  addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  new ResizeObserver(() => draw()).observe(room);

  function turn(step) {
    context.update({ page: page + step });
  }

  function makeCard(item) {
    const name = `L${item.layer} H${item.head}`;
    const link = make(
      "a",
      { onclick: (event) => follow(event, item) },
      context.isThere(item) ? makePicture(context, item) : make("span", { class: "ab-none" }, "not of this model"),
      make("span", { class: "ab-name" }, make("b", {}, name), ` ${item.figure}`),
      make("span", { class: "ab-where" }),
    );
    const compare = make("button", { class: "ab-compare", "aria-label": `Compare ${name}`, onclick: () => mark(item) }, "Compare");
    return make("div", { class: "ab-card" }, link, compare);
  }

  /** Open an item here: its address holds no more prompts than a link may. */
  function follow(event, item) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    context.update({ open: place(item), beside: null, view: "" });
  }

  function place({ model, prompt, layer, head }) {
    return { layer, head, prompt, model };
  }

  /** Choose the first of two items to compare, or open both. */
  function mark(item) {
    const first = marked;
    marked = first ? null : item;
    pairing.hidden = !marked;
    if (marked) told.textContent = `Compare L${item.layer} H${item.head} of “${shorten(context.textOf(item.prompt), 60)}” with another: choose it.`;
    element.classList.toggle("ab-marking", marked !== null);
    if (first && item) context.update({ open: place(first), beside: place(item), view: "" });
  }

  /** The colour of what the borders tell apart, in even steps of hue. */
  function colour(item) {
    const { border, models } = context.state;
    const all = { model: models, layer: [...context.heads.keys()], prompt: context.prompts }[border];
    if (!all) return "";
    const at = all.indexOf(item[border]);
    return `oklch(${context.look === "dark" ? 0.74 : 0.6} 0.15 ${Math.round((360 * at) / all.length + 25)})`;
  }

  function draw() {
    if (!element.isConnected || element.hidden) return;
    const wide = room.clientWidth;
    const { row } = context.state;
    const columns = row || Math.max(1, Math.floor((wide + GAP) / (WIDTH + GAP)));
    const width = Math.min(row ? Infinity : WIDTH * 1.35, (wide - (columns - 1) * GAP) / columns);
    const step = width + CAPTION + GAP;
    const start = page * PAGE;
    const here = Math.max(0, Math.min(PAGE, items.length - start));
    room.style.height = `${Math.ceil(here / columns) * step}px`;
    const top = -room.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((top - 300) / step)) * columns;
    const last = Math.min(here, Math.ceil((top + innerHeight + 300) / step) * columns);
    const next = new Map();
    for (let i = first; i < last; i++) {
      const item = items.get(start + i);
      const key = JSON.stringify([item, context.look, context.isThere(item)]);
      const card = cards.get(key) ?? makeCard(item);
      const link = card.firstChild;
      const text = context.textOf(item.prompt);
      link.href = context.link({ open: place(item), beside: null, view: "" });
      link.title = text.slice(0, 300);
      link.lastChild.textContent = context.state.models.length > 1 ? `${item.model} · ${text}` : text;
      card.style.borderColor = colour(item);
      card.classList.toggle("ab-coloured", context.state.border !== "none");
      card.style.width = `${width}px`;
      card.style.height = `${step - GAP}px`;
      card.style.transform = `translate(${(i % columns) * (width + GAP)}px, ${Math.floor(i / columns) * step}px)`;
      next.set(key, card);
      if (card.parentNode !== room) room.append(card);
    }
    for (const [key, card] of cards) if (!next.has(key)) card.remove();
    cards = next;
  }

  function show() {
    const { state } = context;
    items = orderItems({ ...state, prompts: context.prompts, heads: context.heads });
    const last = Math.max(0, Math.ceil(items.length / PAGE) - 1);
    page = Math.min(state.page, last);
    count.textContent = `${items.length.toLocaleString("en")} figure${items.length === 1 ? "" : "s"}`;
    sort.value = state.sort.replace("-", "");
    direction.textContent = state.sort.startsWith("-") ? "↓ Descending" : "↑ Ascending";
    if (document.activeElement !== perRow) perRow.value = state.row || "";
    border.value = state.border;
    const { prompts, heads } = readState(writeState(state));
    const kept = [];
    if (prompts.length < state.prompts.length) kept.push(`the first ${prompts.length} of ${state.prompts.length} prompts`);
    if (heads.length < state.heads.length) kept.push(`the heads up to ${shorten(splitTerms(heads).at(-1), 40)}`);
    cut.hidden = !kept.length;
    cut.textContent = `The link keeps ${kept.join(" and ")}.`;
    pages.hidden = last === 0;
    pages.children[1].textContent = `page ${page + 1} of ${last + 1}`;
    earlier.disabled = page === 0;
    later.disabled = page === last;
    const missing = [
      [context.prompts.length, "a prompt"],
      [context.heads.size, "a head"],
      [state.figures.length, "a figure"],
    ].filter(([size]) => size === 0);
    hint.textContent = items.length ? "" : `Choose ${missing.map(([, what]) => what).join(" and ") || "what to see"}.`;
    draw();
  }

  return { element, show };
}
