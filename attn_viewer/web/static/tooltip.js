import { make } from "./dom.js";

/** Height of a line that does not wrap. */
const LINE = 18;

/**
 * A small box of text lines near a point of the window. It lies in the top layer: elsewhere an ancestor with `contain`,
 * such as a notebook's cell, would be what `position: fixed` counts from.
 */
export function createTooltip() {
  const box = make("div", { class: "av-tooltip", role: "tooltip", popover: "manual" });
  return {
    element: box,
    show(x, y, lines) {
      while (box.childElementCount > lines.length) box.lastChild.remove();
      while (box.childElementCount < lines.length) box.append(make("div"));
      lines.forEach((line, i) => {
        if (box.children[i].textContent !== line) box.children[i].textContent = line;
      });
      if (box.isConnected && !box.matches(":popover-open")) box.showPopover();
      const right = x > window.innerWidth / 2;
      const below = y < 36 + LINE * lines.length;
      box.style.left = `${right ? x - 14 : x + 14}px`;
      box.style.top = `${below ? y + 18 : y - 12}px`;
      box.style.transform = `translate(${right ? "-100%" : "0"}, ${below ? "0" : "-100%"})`;
    },
    hide() {
      if (box.isConnected) box.hidePopover();
    },
  };
}
