/** Drawings as SVG: what our views ask of a canvas, written as elements. */

import { FONT } from "./dom.js";

const FONT_SIZE = readSize(FONT);
/** Pictures of more cells are kept as pixels, each cell one. */
const MOST_CELLS = 2 ** 17;

export class VectorDrawing {
  constructor(width, height) {
    Object.assign(this, { width, height, parts: [], clips: 0, stack: [], path: "", transform: "", open: 0 });
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1, dash: [] });
    Object.assign(this, { textAlign: "left", textBaseline: "alphabetic", font: FONT });
    this.ruler = document.createElement("canvas").getContext("2d");
  }

  save() {
    this.stack.push([this.transform, this.open]);
    this.open = 0;
  }

  restore() {
    this.parts.push("</g>".repeat(this.open));
    [this.transform, this.open] = this.stack.pop();
  }

  translate(x, y) {
    this.transform += `translate(${cut(x)} ${cut(y)})`;
  }

  rotate(angle) {
    this.transform += `rotate(${cut((angle * 180) / Math.PI)})`;
  }

  scale(x, y) {
    this.transform += `scale(${x} ${y})`;
  }

  beginPath() {
    this.path = "";
  }

  moveTo(x, y) {
    this.path += `M${cut(x)} ${cut(y)}`;
  }

  lineTo(x, y) {
    this.path += `L${cut(x)} ${cut(y)}`;
  }

  bezierCurveTo(...points) {
    this.path += `C${points.map(cut).join(" ")}`;
  }

  rect(x, y, width, height) {
    this.path += `M${cut(x)} ${cut(y)}h${cut(width)}v${cut(height)}h${cut(-width)}z`;
  }

  clip() {
    const id = `clip${++this.clips}`;
    this.parts.push(`<clipPath id="${id}"><path d="${this.path}"${this.place()}/></clipPath><g clip-path="url(#${id})">`);
    this.open++;
  }

  stroke() {
    const dash = this.dash.length ? ` stroke-dasharray="${this.dash.join(" ")}"` : "";
    this.parts.push(
      `<path d="${this.path}" fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}"${dash}${this.place()}/>`,
    );
  }

  setLineDash(dash) {
    this.dash = dash;
  }

  fillRect(x, y, width, height) {
    this.parts.push(`<rect x="${cut(x)}" y="${cut(y)}" width="${cut(width)}" height="${cut(height)}" fill="${this.fillStyle}"${this.place()}/>`);
  }

  strokeRect(x, y, width, height) {
    this.beginPath();
    this.rect(x, y, width, height);
    this.stroke();
  }

  fillText(text, x, y, most = Infinity) {
    this.ruler.font = this.font;
    const anchor = { left: "start", center: "middle", right: "end" }[this.textAlign];
    const size = readSize(this.font);
    const down = this.textBaseline === "middle" ? 0.35 * size : 0;
    const squeezed = this.ruler.measureText(text).width > most ? ` textLength="${cut(most)}" lengthAdjust="spacingAndGlyphs"` : "";
    const font = size === FONT_SIZE ? "" : ` font-size="${size}"`;
    const weight = this.font.includes("600") ? ' font-weight="600"' : "";
    this.parts.push(
      `<text x="${cut(x)}" y="${cut(y + down)}" text-anchor="${anchor}" fill="${this.fillStyle}"${squeezed}${font}${weight}${this.place()}>${escapeText(text)}</text>`,
    );
  }

  /** Cells become rectangles, those of one colour one path. */
  drawImage(canvas, x, y, width, height) {
    if (canvas.width * canvas.height > MOST_CELLS) {
      this.parts.push(
        `<image href="${canvas.toDataURL()}" x="${cut(x)}" y="${cut(y)}" width="${cut(width)}" height="${cut(height)}" preserveAspectRatio="none" style="image-rendering:pixelated"${this.place()}/>`,
      );
      return;
    }
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const words = new Uint32Array(data.buffer);
    const paths = new Map();
    for (let row = 0, i = 0; row < canvas.height; row++) {
      for (let column = 0; column < canvas.width; ) {
        const [start, word] = [column, words[i]];
        while (column < canvas.width && words[i] === word) [column, i] = [column + 1, i + 1];
        if (word >>> 24) paths.set(word, `${paths.get(word) ?? ""}M${start} ${row}h${column - start}v1h${start - column}z`);
      }
    }
    const place = `${this.transform}translate(${cut(x)} ${cut(y)})scale(${width / canvas.width} ${height / canvas.height})`;
    this.parts.push(`<g transform="${place}" shape-rendering="crispEdges">`);
    for (const [word, path] of paths) {
      const [red, green, blue] = new Uint8Array(new Uint32Array([word]).buffer);
      this.parts.push(`<path fill="rgb(${red} ${green} ${blue})" d="${path}"/>`);
    }
    this.parts.push("</g>");
  }

  place() {
    const opacity = this.globalAlpha < 1 ? ` opacity="${cut(this.globalAlpha)}"` : "";
    return opacity + (this.transform ? ` transform="${this.transform}"` : "");
  }

  toString() {
    const size = `width="${cut(this.width)}" height="${cut(this.height)}" viewBox="0 0 ${cut(this.width)} ${cut(this.height)}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="ui-sans-serif, system-ui, sans-serif" font-size="${FONT_SIZE}">\n${this.parts.join("\n")}\n</svg>\n`;
  }
}

function readSize(font) {
  return parseFloat(/[\d.]+(?=px)/.exec(font)[0]);
}

function cut(value) {
  return Math.round(value * 100) / 100;
}

/** Text as XML: markup escaped, and characters that XML does not have shown as missing. */
function escapeText(text) {
  return text
    .toWellFormed()
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd")
    .replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
