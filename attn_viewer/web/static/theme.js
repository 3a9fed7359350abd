/** Colours of canvases. The palette comes with the data, so that pages and figures agree. */

const LOOKS = {
  light: { ink: "#1c2433", muted: "#667085", frame: "#cfd4dc", accent: "#d1495b", ground: "#ffffff", lightness: 0.6 },
  dark: { ink: "#e8eaee", muted: "#98a1b0", frame: "#3a4150", accent: "#ff8a98", ground: "#14171d", lightness: 0.74 },
};

export function readTheme({ meta, root, state }) {
  const isDark =
    state.theme === "dark" || (state.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = isDark ? "dark" : "light";
  return makeTheme(meta, isDark);
}

export function makeTheme(meta, isDark) {
  const look = LOOKS[isDark ? "dark" : "light"];
  return { ...look, isDark, masked: readColor(meta.masked[Number(isDark)]), isSigned: meta.signed, table: makePalette(meta, isDark) };
}

/** The colour of a share of the scale: from 0 to 1, or of maps with a sign from -1 to 1 with 0 in the middle. */
export function pickColor(theme, share) {
  return theme.table[Math.round(theme.isSigned ? 127.5 * (1 + share) : 255 * share)];
}

/** 256 colours as the 32-bit words of an ImageData; on a dark ground the palest is the largest weight. */
function makePalette({ palette, signed, palette_dark }, isDark) {
  const digits = signed && isDark ? palette_dark : palette;
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const at = 6 * (isDark && !signed ? 255 - i : i);
    table[i] = readColor(digits.slice(at, at + 6));
  }
  return table;
}

function readColor(digits) {
  const value = parseInt(digits.replace("#", ""), 16);
  const bytes = new Uint8ClampedArray([value >> 16, (value >> 8) & 255, value & 255, 255]);
  return new Uint32Array(bytes.buffer)[0];
}

export function spellColor(word) {
  const [red, green, blue] = new Uint8Array(new Uint32Array([word]).buffer);
  return `rgb(${red} ${green} ${blue})`;
}

/** One colour a head: even steps of hue; neighbours differ in lightness too when there are many. */
export function colorHead(theme, index, count) {
  if (index === "mean") return theme.ink;
  const lightness = theme.lightness + (count > 9 ? [0, -0.1, 0.08][index % 3] : 0);
  return `oklch(${lightness.toFixed(2)} 0.15 ${Math.round((360 * index) / count + 25)})`;
}
