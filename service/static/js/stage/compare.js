/**
 * Before and after in one frame, divided where the slider stands; held, a button shows the picture before alone.
 */

import { button, h } from "../lib/dom.js";

/**
 * URLs of two pictures of the same shape. The slider is a native range, so keyboards and readers have it too; `share`
 * is how much of the picture before it shows at first, in percent.
 */
export function compare(before, after, alt, share = 50) {
  const frame = h("div", { className: "compare" });
  const label = "Before and after: how much of the picture before is shown, in percent";
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 0.5,
    value: share,
    className: "divider",
    "aria-label": label,
  });
  const place = (at) => frame.style.setProperty("--at", `${at}%`);
  slider.addEventListener("input", () => place(slider.value));
  place(share);
  frame.append(
    h("img", { src: after, alt, className: "after" }),
    h("span", { className: "tag right", "aria-hidden": "true" }, "After"),
    h(
      "div",
      { className: "before" },
      h("img", { src: before, alt: "The picture before" }),
      h("span", { className: "tag left", "aria-hidden": "true" }, "Before"),
    ),
    h("span", { className: "handle", "aria-hidden": "true" }),
    slider,
  );
  return { frame, hold: holdButton((on) => place(on ? 100 : slider.value)) };
}

/** A button that shows the picture before for as long as it is held, by pointer, Space or Enter. */
function holdButton(show) {
  const hold = button("Hold to compare", { className: "button small", id: "hold" }, "eye");
  const keys = (event) => event.key === " " || event.key === "Enter";
  hold.addEventListener("pointerdown", () => show(true));
  for (const end of ["pointerup", "pointerleave", "pointercancel", "blur"])
    hold.addEventListener(end, () => show(false));
  hold.addEventListener("keydown", (event) => keys(event) && show(true));
  hold.addEventListener("keyup", (event) => keys(event) && show(false));
  return hold;
}
