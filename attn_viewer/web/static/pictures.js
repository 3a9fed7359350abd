/** Pictures in running text: their patches stand over the picture, where the page has it, in place of so many tokens. */

import { make } from "./dom.js";

const [NARROW, WIDE, PATCH] = [232, 392, 14]; // CSS pixels of a picture, and of a patch between
/** Frames of a sound in a row. */
const FRAMES = 50;
/** A picture under weights is grey, light or dark as the page is, so that all colour is weight. */
const GREYS = { light: [0.35, 1], dark: [0, 0.3] };

/** What is among the keys of maps: [{name, drawn, rows, columns, patches}], the tiles of a picture put together. */
export function listPictures({ spans = [], pictures = [] }) {
  const found = new Map();
  for (const [sense, number, part, start, rows, columns, stride, seconds] of spans) {
    const isSound = sense === "audio";
    const tile = /^tile (\d+),(\d+)$/.exec(part);
    const [down, across] = tile ? [rows * tile[1], columns * tile[2]] : [0, 0];
    const key = [sense, number, tile ? "tiles" : part, rows, columns].join();
    const name = `${sense} ${number}${part === "whole" || tile ? "" : `, ${part}`}`;
    const drawn = sense === "image" ? pictures[number] ?? null : null;
    const picture = found.get(key) ?? { name, drawn, isSound, rows: 0, columns: 0, patches: new Map() };
    found.set(key, picture);
    for (let i = 0; i < rows * columns; i++) {
      const [row, column] = isSound ? [Math.floor(i / FRAMES), i % FRAMES] : [down + Math.floor(i / columns), across + (i % columns)];
      const time = seconds ? `${(i * seconds).toFixed(2)} s` : `frame ${i}`;
      picture.patches.set(start + Math.floor(i / columns) * stride + (i % columns), { row, column, time: isSound ? time : null });
      picture.rows = Math.max(picture.rows, row + 1);
      picture.columns = Math.max(picture.columns, column + 1);
    }
  }
  return [...found.values()];
}

/** A picture of whose patches `getPatch(token)` is the element of each. */
export function createPicture(picture, getPatch, redraw) {
  const { name, drawn, rows, columns, patches, isSound } = picture;
  const canvas = make("canvas", { "aria-hidden": true });
  const label = `${name}: ${isSound ? `${patches.size} frames` : `${rows} × ${columns} patches`}`;
  const element = make("div", { class: "av-picture", role: "group", "aria-label": label, title: label }, canvas);
  element.style.width = `${Math.min(WIDE, Math.max(NARROW, columns * PATCH))}px`;
  element.style.aspectRatio = drawn ? `${drawn.width} / ${drawn.height}` : `${columns} / ${rows}`;
  element.style.gridTemplate = `repeat(${rows}, minmax(0, 1fr)) / repeat(${columns}, minmax(0, 1fr))`;
  for (const [token, { row, column }] of patches) {
    const patch = getPatch(token);
    patch.style.gridArea = `${row + 1} / ${column + 1}`;
    element.append(patch);
  }
  let image = null;
  let look = "";
  if (drawn) {
    const loading = new Image();
    loading.onload = () => {
      image = loading;
      look = "";
      redraw();
    };
    loading.src = drawn.href;
    canvas.width = drawn.width;
    canvas.height = drawn.height;
  }

  /** In its colours, or in greys below weights. */
  function show(isBelow, isDark) {
    const wanted = isBelow ? (isDark ? "dark" : "light") : "colours";
    if (!image || look === wanted) return;
    look = wanted;
    const drawing = canvas.getContext("2d", { willReadFrequently: true });
    drawing.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (!isBelow) return;
    const pixels = drawing.getImageData(0, 0, canvas.width, canvas.height);
    const { data } = pixels;
    const [low, high] = GREYS[wanted];
    for (let i = 0; i < data.length; i += 4) {
      const grey = 0.2126 * data[i] + 0.7152 * data[i + 1] + 0.0722 * data[i + 2]; // luminance of ITU-R BT.709
      data.fill(255 * low + (high - low) * grey, i, i + 3);
    }
    drawing.putImageData(pixels, 0, 0);
  }

  return { element, canvas: drawn ? canvas : null, patches, show };
}
